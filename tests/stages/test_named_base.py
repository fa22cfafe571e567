"""A base by the name of its preset, and the list of the presets."""

import re
import shutil

from commands import failed, run

from sentilora.presets import preset_names
from sentilora.stages.named_base import named_base, preset_named

UNREACHABLE = "'HuggingFaceTB/SmolLM2-135M-Instruct' is not a local file or folder, and the hub"


def test_check_lists_the_presets_in_a_table():
    code, stdout, stderr = run("check", "--list")
    assert (code, stderr) == (0, "")
    table, _, notes = stdout.partition("\n\n")
    lines = [re.split(r"  +", line) for line in table.splitlines()]
    assert lines[0] == ["preset", "base", "parameters", "license", "gated", "download",
                        "training memory", "prompt"]  # fmt: skip
    assert sorted(line[0] for line in lines[1:]) == preset_names()
    assert {len(line) for line in lines} == {8}
    by_name = {line[0]: line[1:] for line in lines}
    assert by_name["tiny"][4] == "ships"
    assert by_name["qwen3-4b"] == ["Qwen/Qwen3-4B-Instruct-2507", "4.0 B", "Apache-2.0", "no",
                                   "8.0 GB", "3.4 GiB", "chat"]  # fmt: skip
    assert "an estimate for the recipe" in notes and "2 bytes each" in notes


def test_a_presets_name_is_its_base_unless_a_folder_has_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert named_base("qwen3-8b") == "Qwen/Qwen3-8B"
    assert capsys.readouterr().err == "base: Qwen/Qwen3-8B, of the preset qwen3-8b\n"
    for other in ("Qwen/Qwen3-8B", "embedded", "folder", None, tmp_path):
        assert named_base(other) == other and preset_named(other) is None
    (tmp_path / "qwen3-8b").mkdir()
    assert named_base("qwen3-8b") == "qwen3-8b" and capsys.readouterr().err == ""


def test_every_verb_takes_a_presets_name_as_its_base(toy_run, tmp_path, monkeypatch):
    """The hub is unreachable here, so each ends with the name of the preset's base."""
    monkeypatch.chdir(tmp_path)
    code, _, stderr = run("export", "adapter", "out", "--adapter", toy_run)
    assert code == 0, stderr
    name, adapter = ["--base", "smollm2-135m"], ["--adapter", toy_run]
    failed(3, UNREACHABLE, "evaluate", "data.test=embedded", *name)
    failed(3, UNREACHABLE, "evaluate", *name, *adapter)
    failed(3, UNREACHABLE, "predict", "A film.", *name, *adapter)
    (tmp_path / "texts.csv").write_text("text\nA film.\n")
    files = ["--input", "texts.csv", "--output", "answers.csv"]
    failed(3, UNREACHABLE, "predict", *files, *name, *adapter)
    failed(3, UNREACHABLE, "export", "adapter", "other", *name, *adapter)
    failed(3, UNREACHABLE, "verify", "out", *name, *adapter)
    failed(3, UNREACHABLE, "serve", "--port", "0", *name, *adapter)


def test_a_base_alone_has_the_prompt_and_data_of_its_preset(toy_base, tmp_path, monkeypatch):
    from sentilora.stages.adapter_rows import settings_of

    config, format = settings_of(None, {}, "qwen3-8b")
    assert (config.data.test, format.template) == ("stanfordnlp/imdb", "chat")
    config, format = settings_of(None, {"prompt.labels": ["good", "bad"]})
    assert (config.data.test, format.labels) == ("embedded", ("good", "bad"))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(toy_base, "smollm2-135m")
    few = ["data.test=embedded", "data.num_test=6"]
    assert run("evaluate", "--base", "smollm2-135m", *few)[0] == 0
    error = "the tokenizer of this base has no chat template"
    failed(2, error, "evaluate", "--base", "smollm2-135m", "prompt.template=chat", *few)
    taken = "evaluate takes only data.* and prompt.* settings, not 'lora.r'"
    failed(2, taken, "evaluate", "--base", "smollm2-135m", "lora.r=4")
    failed(
        2, "takes only data.* settings, not 'prompt.template'", "evaluate", "prompt.template=chat"
    )
