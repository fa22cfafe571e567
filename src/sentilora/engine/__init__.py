"""The fast engine: the same arithmetic as the plain path, without padding and repetition.

    segments      which tokens see which: rows end to end, shared beginnings once
    trees         trees of tokens after texts, read in several passes
    attention     variable-length attention over segments
    elementwise   RMSNorm, rotary embedding, SwiGLU
    dropout       masks drawn from a seed
    peft_layers   what is read of PEFT's layers
    nf4           the base's weights: decoded once and kept, or at each use
    fp8           the base's products in 8 bits
    groups        linear layers with one input, and the adapters that they apply now
    lora          a group's products, forward and backward
    layer         a decoder layer made of these
    structure     what a model must be made of, and its sizes
    sizes         what a model takes in bytes
    memory        tokens per pass, weights kept, layers computed twice
    trial         fast layers against their own forward, once
    swap          puts fast layers into one loaded model and takes them out again
    graph         a pass as one launch on a GPU

`…_kernels` are the Triton kernels of the module of that name; `kernels` says where they run.

It takes tensors, modules and plain numbers, and knows nothing of configuration, data or commands.
"""
