"""Cache of bases in NF4 on disk, so that later runs need not read and quantize the full base.

    folder = cache_folder(source, commit, device, dtype, double_quantization)
    store(model, folder)                  # once; from then on `load_base` reads the folder

The folders are in the hub's own cache folder (`HF_HOME`). A folder's name contains a hash of
everything that determines its content.
"""

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from sentilora.errors import SentiloraError
from sentilora.wording import quoted

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def cache_folder(
    source: str, commit: str | None, device: str, dtype: "torch.dtype", double_quantization: bool
) -> Path:
    """The folder in which a base is cached in NF4, whether or not it exists yet.

    source: a model folder or a hub id. commit: the hub's commit; None for a folder. A model folder
    counts as another base once one of its files has been replaced.
    """
    from importlib.metadata import version

    from huggingface_hub.constants import HF_HOME

    origin: list[object] = [source, commit]
    if Path(source).is_dir():
        files = sorted(path for path in Path(source).resolve().iterdir() if path.is_file())
        origin = [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in files]
    form = f"{dtype}-{'double' if double_quantization else 'single'}"
    content = [origin, device, form, version("bitsandbytes"), version("transformers")]
    key = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
    return Path(HF_HOME) / "sentilora" / f"{Path(source).name}-nf4-{key}"


def store(model: "PreTrainedModel", folder: Path) -> None:
    """Write a loaded base to the cache. Other processes see the complete folder or none."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder.parent))
        try:
            model.save_pretrained(partial)
            partial.chmod(folder.parent.stat().st_mode)  # the same readers as the cache
            os.replace(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        if folder.is_dir():
            return  # another process was first
        raise SentiloraError(
            f"cannot cache the quantized base in {quoted(folder)}: {error}",
            setting="base.cache_quantized",
            seen=True,
            remedy="set base.cache_quantized=false to do without the cache",
        ) from error
