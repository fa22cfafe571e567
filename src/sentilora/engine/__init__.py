"""The fast engine: the same arithmetic as the plain path, without padding and repetition.

    segments      which tokens see which: rows end to end, shared beginnings once
    attention     variable-length attention over segments
    elementwise   RMSNorm, rotary embedding, SwiGLU
    lora          a group of linear layers that read one input, with their adapters
    nf4           the base's weights: decoded once and kept, or per use
    memory        how many tokens a pass, what is kept, what is recomputed
    layer         a decoder layer made of these
    swap          puts such layers into one loaded model and takes them out again

It takes tensors, modules and plain numbers, and knows nothing of configuration, data or commands.
"""
