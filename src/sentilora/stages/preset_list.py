"""The presets as a table: what each base is, what it may be used for, and what it takes.

print(as_table())
"""

from sentilora.presets import about, base_of, preset_names, preset_tree
from sentilora.shipped import EMBEDDED
from sentilora.template import CHAT

HEADINGS = (
    "preset",
    "base",
    "parameters",
    "license",
    "gated",
    "download",
    "training memory",
    "prompt",
)
NOTES = (
    "download: parameters in bfloat16, 2 bytes each",
    "training memory: an estimate for the recipe on a GPU in padded passes of 4 × 512 tokens, in "
    "GiB; the fast engine plans with what is free",
    "gated: accept the terms on the hub and set HF_TOKEN",
)


def rows() -> list[tuple[str, ...]]:
    """A row of cells for each preset, the smallest base first."""
    names = sorted(preset_names(), key=lambda name: about(name).parameters)
    return [_row(name) for name in names]


def _row(name: str) -> tuple[str, ...]:
    base, known = base_of(name), about(name)
    template = preset_tree(name)["prompt"]["template"]
    return (
        name,
        base,
        _in_words(known.parameters),
        known.license,
        "yes" if known.gated else "no",
        "ships" if base == EMBEDDED else f"{2 * known.parameters / 1e9:.1f} GB",
        f"{known.training_memory_gib} GiB",
        CHAT if template == CHAT else "plain",
    )


def _in_words(number: int) -> str:
    return f"{number / 1e9:.1f} B" if number >= 0.9995e9 else f"{number / 1e6:.0f} M"


def as_table() -> str:
    """The table for a terminal, with what its columns mean below it."""
    lines = [HEADINGS, *rows()]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    table = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    return "\n".join([*table, "", *NOTES])
