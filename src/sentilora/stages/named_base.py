"""A base by the name of its preset, wherever a base may be named apart from a configuration.

named_base("smollm2-135m")     "HuggingFaceTB/SmolLM2-135M-Instruct"
"""

import os
from pathlib import Path

from sentilora.presets import base_of, preset_names
from sentilora.progress import say


def preset_named(base: object) -> str | None:
    """The preset that a base is named by; None for any other name.

    What is on disk under this name goes first: a folder is what its owner means.
    """
    is_name = isinstance(base, str) and base in preset_names() and not os.path.exists(base)
    return str(base) if is_name else None


def named_base(base: str | Path | None) -> str | Path | None:
    """The base that is meant: of a preset's name that preset's, which is reported."""
    preset = preset_named(base)
    if preset is None:
        return base
    say(f"base: {base_of(preset)}, of the preset {preset}")
    return base_of(preset)
