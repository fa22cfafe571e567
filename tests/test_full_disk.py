"""A disk that is full or read-only, at every write: one line, and no half file under a final name.

transformers #35782 (a checkpoint that was being written when the disk filled up). The size of files
is limited here, as `ulimit -f` does, so that each write fails at another place.
"""

import os
import resource
import shutil
import signal
import subprocess
from contextlib import contextmanager

import pyarrow.parquet as pq
import pytest
import torch
from commands import run
from safetensors.torch import save_file

from sentilora.errors import write_failure
from sentilora.folders.checkpoints import checkpoints, faults_of

FEW = [
    "training.max_steps=4", "training.eval_steps=2", "training.save_steps=2", "data.num_train=16",
    "data.num_evaluation=4", "training.optim=adamw_torch", "prompt.max_length=128",
]  # fmt: skip


@contextmanager
def files_up_to(num_bytes):
    """Within a `with` block, no file grows beyond this many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.fixture
def read_only(tmp_path):
    """A folder that nobody can write to; root neither."""
    folder = tmp_path / "read-only"
    folder.mkdir()
    if os.geteuid() != 0:
        folder.chmod(0o555)
        yield folder
        folder.chmod(0o755)
        return
    mount = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        yield type(folder)("/proc")  # root may not mount here: no folder can be made there
        return
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def one_line(*arguments):
    """(exit code, the error line) of a call that fails."""
    code, _, stderr = run(*arguments)
    errors = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert code in (1, 2) and len(errors) == 1, (code, stderr)
    assert stderr.rstrip("\n").endswith(errors[0]) and "Traceback" not in stderr
    return code, errors[0]


def finals(folder):
    """Files under the names that they keep, without what is aside or hidden."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {str(p) for p in paths if not any(part[0] == "." for part in p.parts)}


@pytest.mark.parametrize("num_bytes", [8, 4096, 2**16])
@pytest.mark.parametrize(
    "write",
    [
        lambda path, content: torch.save(content, path),
        lambda path, content: save_file(content, path),
        lambda path, content: path.write_bytes(content["a"].numpy().tobytes()),
    ],
    ids=["torch", "safetensors", "python"],
)
def test_what_each_package_raises_for_a_full_disk_is_known(tmp_path, write, num_bytes):
    """torch: "unexpected pos 15552 vs 15444", and "basic_ios::clear: iostream error"."""
    content = {"a": torch.ones(2**16)}
    with files_up_to(num_bytes), pytest.raises(Exception) as caught:
        write(tmp_path / "file", content)
    reason = write_failure(caught.value)
    assert reason in ("File too large", "a file could not be completed; the disk may be full")


def test_what_a_tokenizer_raises_for_a_full_disk_is_known(tmp_path, toy_tokenizer):
    """tokenizers raises Exception itself."""
    with files_up_to(4096), pytest.raises(Exception) as caught:
        toy_tokenizer.save_pretrained(tmp_path)
    assert write_failure(caught.value) == "File too large"


def test_other_errors_are_no_failed_writes():
    for error in (ValueError("x"), FileNotFoundError(2, "No such file"), RuntimeError("shape")):
        assert write_failure(error) is None


# From the first file of a run to the optimizer's state, which is the largest.
@pytest.mark.parametrize("num_bytes", [40, 1000, 3000, 20_000, 100_000, 200_000])
def test_training(toy_base, tmp_path, num_bytes):
    folder = tmp_path / "run"
    with files_up_to(num_bytes):
        code, line = one_line("train", f"base.name={toy_base}", *FEW, "--output-dir", folder)
    assert code == 1 and str(folder) in line
    assert not {"adapter_config.json", "train_results.json"} & finals(folder)
    assert not any(map(faults_of, checkpoints(folder).values()))
    assert not (folder / "unfinished-checkpoint").exists()


# The model is larger than every other file of an export; of an adapter's, the scored rows are.
@pytest.mark.parametrize(
    ("kind", "num_bytes"),
    [
        *(("adapter", num_bytes) for num_bytes in (40, 3000, 100_000, 300_000)),
        *(("merged", num_bytes) for num_bytes in (40, 3000, 100_000, 400_000)),
        pytest.param("onnx", 200_000, marks=pytest.mark.slow),
    ],
)
def test_exporting(toy_run, tmp_path, kind, num_bytes):
    with files_up_to(num_bytes):
        code, line = one_line("export", kind, tmp_path / "out", "--adapter", toy_run)
    assert code == 1 and "File too large" in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("num_bytes", [0, 40, 3000])
@pytest.mark.parametrize("name", ["records.jsonl", "records.json"])
def test_converting(tmp_path, name, num_bytes):
    """A file that cannot be completed leaves room for the same command."""
    source, out = tmp_path / "rows.csv", tmp_path / name
    lines = (f"A {('lovely', 'dull')[n % 2]} film {n}.,{'pn'[n % 2]}\n" for n in range(40))
    source.write_text("text,label\n" + "".join(lines))
    with files_up_to(num_bytes):
        code, line = one_line("convert", source, out)
    assert code == 1 and f"cannot write {out}: " in line and "File too large" in line
    assert list(tmp_path.iterdir()) == [source]
    code, _, stderr = run("convert", source, out)
    assert code == 0, stderr


# The claim, the teacher's manifest, the student's first checkpoint and its optimizer's state.
@pytest.mark.parametrize(
    "num_bytes", [40, 1000, pytest.param(20_000, marks=pytest.mark.slow), 200_000]
)
def test_distilling(toy_base, toy_run, tmp_path, num_bytes):
    """A claim that was cut short counted as another job's: "it has just started"."""
    texts, folder = tmp_path / "texts.csv", tmp_path / "student"
    texts.write_text("text\n" + "".join(f"A film with number {n}.\n" for n in range(40)))
    ask = ["distill", "--teacher", toy_run, "--texts", texts, "--base", toy_base,
           "base.device=cpu", "--output-dir", folder]  # fmt: skip
    ask += [setting for setting in FEW if not setting.startswith("data.")]
    with files_up_to(num_bytes):
        code, line = one_line(*ask)
    assert code == 1 and str(folder) in line
    assert "File too large" in line or "the disk may be full" in line
    done = {"adapter_config.json", "train_results.json", "distillation.json"}
    assert not done & finals(folder)
    assert not any(map(faults_of, checkpoints(folder).values()))
    for path in folder.rglob("*.parquet"):
        assert pq.read_table(path).num_rows
    begun = (folder / "distillation").is_dir()
    code, _, stderr = run(*ask, *["--resume"] * begun)  # with room again
    assert code == 0, stderr
    assert done <= finals(folder)


@pytest.mark.parametrize("num_bytes", [40, 300])
@pytest.mark.parametrize("output", ["units/", "labeled.csv", "labeled.parquet"])
def test_predicting_a_file(toy_run, tmp_path, output, num_bytes):
    source, place = tmp_path / "rows.csv", tmp_path / "out"
    source.write_text("text\n" + "".join(f"A film with number {n}.\n" for n in range(40)))
    place.mkdir()
    ask = ["predict", "--input", source, "--adapter", toy_run, "--output", f"{place}/{output}"]
    with files_up_to(num_bytes):
        assert one_line(*ask)[0] == 1
    assert not [name for name in finals(place) if "part" in name or "labeled" in name]
    code, _, stderr = run(*ask)  # with room again, the same command goes on
    assert code == 0, stderr


@pytest.mark.parametrize("num_bytes", [40, 5000])
def test_evaluating(toy_run, tmp_path, num_bytes):
    ask = ["evaluate", "--adapter", toy_run, "data.num_test=4"]
    for option, name in (("--report", "report"), ("--output", "figures.json")):
        with files_up_to(num_bytes if option == "--report" else 40):
            assert one_line(*ask, option, tmp_path / name)[0] == 1
        assert not finals(tmp_path)


# More than the claim on the run's folder takes.
@pytest.mark.parametrize("num_bytes", [500, 10_000, 100_000])
def test_the_cache_of_a_base(toy_base, tmp_path, monkeypatch, num_bytes):
    """safetensors' own error passed through `OSError`, and was a traceback."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "home"))
    with files_up_to(num_bytes):
        ask = ["train", f"base.name={toy_base}", *FEW, "base.cache_quantized=true"]
        code, line = one_line(*ask, "--output-dir", tmp_path / "run")
    assert code == 1 and "cannot cache the quantized base in" in line
    assert not finals(tmp_path / "home")


def test_a_read_only_folder(toy_base, toy_run, read_only, tmp_path, monkeypatch):
    source = tmp_path / "rows.csv"
    source.write_text("text\nA film.\n")
    predicting = ["predict", "--input", source, "--adapter", toy_run, "--output"]
    evaluating = ["evaluate", "--adapter", toy_run, "data.num_test=4"]
    training = ["train", f"base.name={toy_base}", *FEW]
    before = sorted(read_only.iterdir()) if read_only.name == "read-only" else []
    for ask in (
        [*training, "--output-dir", read_only / "run"],
        [*predicting, f"{read_only}/units/"],
        [*predicting, read_only / "labeled.csv"],
        [*evaluating, "--report", read_only / "report"],
        [*evaluating, "--output", read_only / "figures.json"],
    ):
        assert str(read_only) in one_line(*ask)[1]
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(read_only / "home"))
    ask = [*training, "base.cache_quantized=true", "--output-dir", tmp_path / "run"]
    assert "cannot cache the quantized base in" in one_line(*ask)[1]
    assert not before


def test_an_adapter_in_a_read_only_folder_is_used(toy_run, read_only, tmp_path):
    """Its calibration cannot be stored; that is a warning."""
    if read_only.name != "read-only" or os.geteuid() != 0:
        folder = shutil.copytree(toy_run, tmp_path / "adapter")
        folder.chmod(0o555)
    else:
        subprocess.run(["mount", "-o", "remount,rw", str(read_only)], check=True)
        folder = shutil.copytree(toy_run, read_only / "adapter")
        subprocess.run(["mount", "-o", "remount,ro", str(read_only)], check=True)
    code, _, stderr = run("evaluate", "--adapter", folder, "data.num_test=4")
    assert code == 0, stderr
    assert run("predict", "A film.", "--adapter", folder)[0] == 0
