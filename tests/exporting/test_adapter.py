"""The adapter as a folder to publish: loads anywhere, says nothing of the machine it is from."""

import json

import numpy as np
import pytest
import torch
from commands import failed, run
from huggingface_hub import ModelCard

import sentilora
from sentilora.exporting.adapter import public_base
from sentilora.exporting.certified_rows import NUM_PUBLIC, ROWS_FILE
from sentilora.folders.classifier_file import BaseReference
from sentilora.folders.run_folder import DataRecord, TrainingResult
from sentilora.prompt import Prompter

TEXTS = ["A lovely film.", "Two hours that I want back.", "?"]


def texts_of(folder):
    """{name: content} of the files of a folder that can be read as text."""
    found = {}
    for path in folder.iterdir():
        if path.suffix not in (".safetensors", ".gguf"):
            found[path.name] = path.read_text(encoding="utf-8")
    assert len(found) >= 6
    return found


def test_the_folder_holds_what_a_reader_needs_and_nothing_of_the_run(adapter_export):
    assert {path.name for path in adapter_export.iterdir()} == {
        "README.md", "adapter_config.json", "adapter_model.safetensors", "chat_template.jinja",
        "checksums.json", "classifier.json", "parity.json", "parity_rows.jsonl", "probes.json",
        "prompt.json", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    for path in (adapter_export, *adapter_export.iterdir()):
        assert path.stat().st_mode & 0o044 == 0o044, path  # others may read it, as ordinary files
    assert not list(adapter_export.parent.glob(".*"))  # what was written aside is gone


@pytest.mark.parametrize("export", ["adapter_export", "merged_export"])
def test_no_file_names_a_path_of_this_machine(export, toy_run, toy_base, request):
    folder = request.getfixturevalue(export)
    for name, text in texts_of(folder).items():
        for path in (toy_run, toy_base, folder, toy_base.parent.parent):
            assert str(path) not in text, (name, path)


def test_it_answers_as_the_run_does(adapter_export, toy_run, toy_base):
    before = sentilora.Classifier.load(toy_run).predict_proba(TEXTS)
    after = sentilora.Classifier.load(adapter_export, base=toy_base).predict_proba(TEXTS)
    assert np.array_equal(before, after)


def test_stock_peft_loads_it(adapter_export, toy_base):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(toy_base)
    model = PeftModel.from_pretrained(base, adapter_export)
    assert isinstance(model, PeftModel)
    config = json.loads((adapter_export / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "base"  # the last part of the path


def test_the_base_is_named_for_other_machines(toy_base, tmp_path, capsys):
    assert public_base(BaseReference("embedded"), None) == "embedded"
    assert public_base(BaseReference("owner/model"), None) == "owner/model"
    assert public_base(BaseReference(str(toy_base)), "owner/model") == "owner/model"
    assert public_base(BaseReference(str(toy_base)), None) == "base"
    said = capsys.readouterr().err
    assert said.count("base: written as base, because") == 1 and "`" not in said


def test_evaluation_rows_are_compared_and_stay_at_home(adapter_export, toy_run):
    certificate = json.loads((adapter_export / "parity.json").read_text())
    num_evaluation = DataRecord.load(toy_run).evaluation.num_rows
    assert certificate["origins"] == {"probe": 16, "shipped": 184, "evaluation": num_evaluation}
    assert certificate["rows"] == NUM_PUBLIC + num_evaluation >= 200
    lines = (adapter_export / ROWS_FILE).read_text(encoding="utf-8").strip().split("\n")
    assert len(lines) == NUM_PUBLIC
    assert {json.loads(line)["origin"] for line in lines} == {"probe", "shipped"}


def test_the_chat_template_makes_the_trained_prompt(adapter_export, toy_run):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(adapter_export)
    classifier = sentilora.Classifier.load(toy_run)
    for text in (*TEXTS, "  two\r\nlines, “quoted” {text} {{ x }}  "):
        messages = [{"role": "user", "content": text}]
        ids = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"]
        assert list(ids) == classifier.prompter.encode(text).input_ids, text


def test_the_prompt_file_suffices_to_build_a_prompt(adapter_export, toy_tokenizer, toy_run):
    prompt = json.loads((adapter_export / "prompt.json").read_text(encoding="utf-8"))
    text = prompt["example"]["item"]
    string = "".join(text if kind == "column" else part for kind, part in prompt["parts"])
    assert string == prompt["example"]["prompt"]
    ids = toy_tokenizer(string, add_special_tokens=False)["input_ids"]
    bos = [toy_tokenizer.bos_token_id] if prompt["adds_bos"] else []
    assert bos + ids == prompt["example"]["input_ids"]
    classifier = sentilora.Classifier.load(toy_run)
    assert prompt["label_ids"] == Prompter(toy_tokenizer, classifier.prompter.format).label_ids


def test_the_card_can_be_read_back(adapter_export, toy_run):
    card = ModelCard.load(adapter_export / "README.md")
    result = TrainingResult.load(toy_run)
    figures = {one.metric_type: one for one in card.data.eval_results}
    assert figures["accuracy"].metric_value == round(result.metrics.accuracy, 4)
    low, high = figures["accuracy"].metric_args["wilson_95"]
    assert low < result.metrics.accuracy < high
    assert card.data.library_name == "peft" and card.data.base_model == "base"
    data = DataRecord.load(toy_run)
    for words in (
        data.train.sha256, data.evaluation.sha256, "positive, negative", "### Review:\n{text}",
        "`training.learning_rate`", "## Limits", "energy: not measured", "hardware: CPU",
        f"{result.train_seconds:,.0f} s for 4 steps",
    ):  # fmt: skip
        assert words in card.text, words


@pytest.mark.parametrize("kind", ["adapter", "merged"])
def test_labels_with_quotes_and_braces_survive(kind, odd_run, tmp_path):
    """Jinja, YAML, Go and JSON each have quotes of their own."""
    from transformers import AutoTokenizer

    out = tmp_path / "out"
    sentilora.export(kind, out, adapter=odd_run)
    prompt = json.loads((out / "prompt.json").read_text(encoding="utf-8"))
    assert prompt["labels"] == list(sentilora.Classifier.load(odd_run).labels)
    assert len(set("\"'{`\\") & set("".join(prompt["labels"]))) == 5
    ModelCard.load(out / "README.md")
    tokenizer = AutoTokenizer.from_pretrained(out)
    messages = [{"role": "user", "content": "A text."}]
    string = tokenizer.apply_chat_template(messages, tokenize=False)
    encoded = sentilora.Classifier.load(odd_run).prompter.encode("A text.")
    assert string.removeprefix("<s>") == encoded.string


@pytest.mark.parametrize("kind", ["adapter", "merged"])
def test_a_prompt_of_several_columns_with_special_tokens(kind, columns_run, tmp_path):
    """What is filled in holds `</s>` too, which a tokenizer that parses strings would obey."""
    out = tmp_path / "out"
    certificate = sentilora.export(kind, out, adapter=columns_run)
    assert certificate.rows_with_other_tokens == 0
    assert not (out / "chat_template.jinja").exists()  # a message is one text
    prompt = json.loads((out / "prompt.json").read_text(encoding="utf-8"))
    assert [part for kind, part in prompt["parts"] if kind == "column"] == ["title", "text"]
    assert prompt["has_special_tokens"] and not prompt["adds_bos"]
    lines = (out / ROWS_FILE).read_text(encoding="utf-8").strip().split("\n")
    assert any(json.loads(line)["as_tokens"] for line in lines)


def test_exporting_what_was_exported_gives_the_same_files(adapter_export, toy_base, tmp_path):
    """A published adapter has no run, but its certificate is made all the same."""
    out = tmp_path / "again"
    code, _, stderr = run("export", "adapter", out, "--adapter", adapter_export, "--base", toy_base)
    assert code == 0, stderr
    for name in ("adapter_model.safetensors", "prompt.json", "probes.json"):
        assert (out / name).read_bytes() == (adapter_export / name).read_bytes(), name


def test_a_push_without_the_hub_is_refused_before_anything_is_computed(toy_run, tmp_path):
    failed(3, "is not reachable; leave out --push-to-hub", "export", "adapter", tmp_path / "out",
           "--adapter", toy_run, "--push-to-hub", "me/mine")  # fmt: skip
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("code", "said", "repository"),
    [
        (3, "nothing can be uploaded to me/mine: HF_HUB_OFFLINE is set; leave out --push-to-hub",
         "me/mine"),
        (2, "'me/mine/it' is no name of a repository on the hub; name it user/name", "me/mine/it"),
    ],
)  # fmt: skip
def test_a_push_that_cannot_be_is_refused_in_words_of_uploading(
    code, said, repository, toy_run, tmp_path, monkeypatch
):
    """It was computed first, or the error spoke of a local file and of HF_HUB_OFFLINE=1."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    failed(code, said, "export", "adapter", tmp_path / "out", "--adapter", toy_run,
           "--push-to-hub", repository)  # fmt: skip
    assert not list(tmp_path.iterdir())


def test_a_push_that_fails_says_that_the_folder_is_written(toy_run, tmp_path, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # the hub may be behind it
    failed(3, "is written, but not uploaded to me/mine", "export", "adapter", tmp_path / "out",
           "--adapter", toy_run, "--push-to-hub", "me/mine")  # fmt: skip
    assert (tmp_path / "out/parity.json").is_file()


def test_a_repository_gets_the_folder(toy_run, tmp_path, monkeypatch):
    sent = []
    monkeypatch.setattr("sentilora.stages.export.require_hub_to_upload", lambda *_: None)
    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", lambda _, *a, **k: sent.append((a, k)))
    monkeypatch.setattr("huggingface_hub.HfApi.upload_folder", lambda _, **k: sent.append(k))
    out = tmp_path / "out"
    code, _, stderr = run("export", "adapter", out, "--adapter", toy_run, "--push-to-hub", "me/it")
    assert code == 0, stderr
    assert sent == [(("me/it",), {"exist_ok": True}), {"folder_path": str(out), "repo_id": "me/it"}]


def test_the_weights_are_the_trained_ones_bit_for_bit(adapter_export, toy_run):
    from safetensors.torch import load_file

    before, after = (load_file(f / "adapter_model.safetensors") for f in (toy_run, adapter_export))
    assert before.keys() == after.keys() and len(before) >= 20
    assert all(torch.equal(before[name], after[name]) for name in before)
