"""llama.cpp's own converter, out of the source distribution of llama-cpp-python.

    script = converter_script(None)                  # downloaded once with pip, or from the cache
    convert(script, merged, out / "model-f16.gguf", "f16")

It is a program of llama.cpp, no package: it is unpacked into the cache and run as a process.
"""

import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from sentilora.disk import digest_of
from sentilora.errors import DataError, SentiloraError, UsageError
from sentilora.progress import say
from sentilora.wording import quoted

VERSION = "0.3.36"
SDIST = f"llama_cpp_python-{VERSION}.tar.gz"
SDIST_SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
SCRIPT = "convert_hf_to_gguf.py"
_ROOT = f"llama_cpp_python-{VERSION}/vendor/llama.cpp/"
_NEEDED = (SCRIPT, "conversion/", "gguf-py/gguf/", "LICENSE")
_UNKNOWN_TOKENIZER = "BPE pre-tokenizer was not recognized"


def converter_script(sdist: Path | None) -> Path:
    """The converter, unpacked into the cache if it is not there yet.

    sdist: the source distribution; None downloads it with pip. Raises `UsageError` for a file that
    is not the one whose digest is known, `DataError` when it cannot be downloaded.
    """
    from huggingface_hub.constants import HF_HOME

    folder = Path(HF_HOME) / "sentilora" / f"llama.cpp-of-{SDIST.removesuffix('.tar.gz')}"
    script = folder / SCRIPT
    if script.is_file():
        return script
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder.parent) as name:
            partial = Path(name)
            archive = sdist if sdist is not None else _download(partial)
            _unpack(archive, partial / "unpacked")
            os.replace(partial / "unpacked", folder)
    except OSError as error:
        if not script.is_file():  # another process was first
            raise SentiloraError(
                f"cannot write llama.cpp's converter to {quoted(folder)}: {error}",
                setting="converter",
                seen=str(folder),
                remedy="set HF_HOME to a folder with room for it",
            ) from error
    return script


def _download(folder: Path) -> Path:
    """The source distribution, fetched with pip, which knows the user's index and proxy."""
    say(f"llama.cpp's converter: downloading {SDIST} once (77 MB)")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--no-binary", "llama-cpp-python", "--disable-pip-version-check"]
    command += ["--dest", str(folder), f"llama-cpp-python=={VERSION}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not (folder / SDIST).is_file():
        raise DataError(
            f"pip cannot download {SDIST} ({_last_line(done.stderr)})",
            setting="converter",
            seen=SDIST,
            remedy="name a copy of that file with `converter`",
        )
    return folder / SDIST


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack the converter and what it imports. Raises `UsageError` for any other archive."""
    if not archive.is_file() or digest_of(archive) != SDIST_SHA256:
        fault = "is not" if archive.is_file() else "is missing; it must be"
        raise UsageError(
            f"{quoted(archive)} {fault} {SDIST} (SHA-256 {SDIST_SHA256[:12]}…)",
            setting="converter",
            seen=str(archive),
            remedy="name that file, or leave out `converter` to download it",
        )
    with tarfile.open(archive) as tar:
        for member in tar:
            name = member.name.removeprefix(_ROOT)
            if member.isfile() and member.name != name and name.startswith(_NEEDED):
                member.name = name
                tar.extract(member, folder, filter="data")


def convert(script: Path, model: Path, file: Path, form: str, name: str) -> None:
    """Write a model folder as a GGUF file. form: f16 or q8_0. name: of the model, in its metadata.

    Raises `UsageError` when llama.cpp does not know the architecture or the tokenizer.
    """
    command = [sys.executable, str(script), str(model), "--outfile", str(file)]
    command += ["--outtype", form, "--model-name", name]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if not done.returncode and file.is_file():
        return
    file.unlink(missing_ok=True)
    last = _last_line(done.stderr)
    if _UNKNOWN_TOKENIZER in done.stderr:
        fault = "does not know the tokenizer of this base"
    elif "is not supported" in last:
        fault = f"does not know this base ({last.rpartition(':')[2].strip()})"
    else:
        raise SentiloraError(
            f"llama.cpp's converter failed ({last})",
            setting="kind",
            seen="gguf",
            remedy="export it as merged, which most servers read",
        )
    raise UsageError(
        f"llama.cpp's converter {fault}",
        setting="kind",
        seen="gguf",
        remedy="export it as merged, which most servers read",
    )


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].replace("`", "'")[:200] if lines else "no reason given"
