"""A base kept in NF4 on disk, so that the next start neither reads nor quantises the whole of it.

    folder = cache_folder(source, commit, device, dtype, double_quantization)
    store(model, folder)                  # once; from then on `load_base` reads the folder

It lies in the hub's own cache folder (`HF_HOME`), under a name made of everything that decides
what is in it.
"""

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from sentilora.errors import SentiloraError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def cache_folder(
    source: str, commit: str | None, device: str, dtype: "torch.dtype", double_quantization: bool
) -> Path:
    """Where a base in NF4 would lie: `source` a folder or a hub id, `commit` of the latter.

    A folder counts as another base when a file in it is replaced.
    """
    from importlib.metadata import version

    from huggingface_hub.constants import HF_HOME

    origin: list[object] = [source, commit]
    if Path(source).is_dir():
        files = sorted(path for path in Path(source).resolve().iterdir() if path.is_file())
        origin = [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in files]
    form = f"{dtype}-{'double' if double_quantization else 'single'}"
    decides = [origin, device, form, version("bitsandbytes"), version("transformers")]
    key = hashlib.sha256(json.dumps(decides).encode()).hexdigest()[:16]
    return Path(HF_HOME) / "sentilora" / f"{Path(source).name}-nf4-{key}"


def store(model: "PreTrainedModel", folder: Path) -> None:
    """Write a base as it was loaded; other processes see all of it or nothing."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder.parent))
        try:
            model.save_pretrained(partial)
            partial.chmod(folder.parent.stat().st_mode)  # readable to whom the cache is
            os.replace(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        if folder.is_dir():
            return  # another process was first
        raise SentiloraError(
            f"cannot keep the base in {folder}: {error}; base.cache_quantized=false goes without"
        ) from error
