"""Cache of bases on disk: in NF4, so that later runs need not read and quantize the full base, and
those of GGUF files as the model folders that they are converted to.

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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sentilora.errors import SentiloraError, write_failure
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

    origin: list[object] = [source, commit]
    if Path(source).is_dir():
        files = sorted(path for path in Path(source).resolve().iterdir() if path.is_file())
        origin = [_state_of(path) for path in files]
    form = f"{dtype}-{'double' if double_quantization else 'single'}"
    content = [origin, device, form, version("bitsandbytes"), version("transformers")]
    return _folder_of(f"{Path(source).name}-nf4", content)


def converted_folder(file: Path) -> Path:
    """The folder in which the base in a GGUF file is cached, whether or not it exists yet.

    A file that was replaced counts as another base.
    """
    from importlib.metadata import version

    content = [_state_of(file.resolve()), "float16", version("transformers")]
    return _folder_of(file.stem, content)


def _state_of(file: Path) -> list[object]:
    """What changes when a file is replaced: its path, size and time of modification."""
    return [str(file), file.stat().st_size, file.stat().st_mtime_ns]


def _folder_of(name: str, content: Sequence[object]) -> Path:
    """The cache folder for content that is determined by these values."""
    from huggingface_hub.constants import HF_HOME

    key = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
    return Path(HF_HOME) / "sentilora" / f"{name}-{key}"


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """An empty folder that becomes `folder` at the end: other processes see all of it or none.

    Raises `OSError` when it cannot be written, or when `folder` exists by then.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder.parent))
    try:
        yield partial
        mode = folder.parent.stat().st_mode  # the same readers as the cache
        for file in partial.iterdir():
            file.chmod(mode & 0o666)  # safetensors writes for its owner only
        partial.chmod(mode)
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def store(model: "PreTrainedModel", folder: Path) -> None:
    """Write a loaded base to the cache. Other processes see the complete folder or none."""
    try:
        with whole_folder(folder) as partial:
            model.save_pretrained(partial)
    except Exception as error:
        if folder.is_dir():
            return  # another process was first
        reason = error if isinstance(error, OSError) else write_failure(error)
        if reason is None:
            raise
        raise SentiloraError(
            f"cannot cache the quantized base in {quoted(folder)}: {reason}",
            setting="base.cache_quantized",
            seen=True,
            remedy="set base.cache_quantized=false to do without the cache",
        ) from error
