"""What an adapter answers on the decision routes, and adapters whose prompt shows columns."""

import shutil

import numpy as np
import pytest
from servers import Fake

from sentilora import Classifier, shipped_adapter
from sentilora.folders.adapter_folder import AdapterFolder
from sentilora.prompt import PromptFormat

TRAINED = "Is it urgent?"
TITLED = PromptFormat(
    "### Instruction:\n{instruction}\n\n### Title:\n{title}\n\n### Review:\n{text}\n\n"
    "### Sentiment:\n"
)
RECORDS = [
    {"text": "A lovely film.", "title": "Marie"},
    {"text": "Dull. " * 600, "title": ""},
    {"text": "Hm.", "title": 1984},
]
CHOICES = [{"value": "positive"}, {"value": "negative"}]


def adapter_with(format, folder):
    """The shipped adapter under another prompt. What it answered in training says nothing here."""
    shutil.copytree(shipped_adapter(), folder)
    (folder / "probes.json").unlink()
    record = AdapterFolder.open(folder).classifier
    record.model_copy(update={"prompt": format}).save(folder)
    return folder


@pytest.fixture(scope="module")
def titled(tmp_path_factory):
    return adapter_with(TITLED, tmp_path_factory.mktemp("titled") / "titled")


def fake_with(labels, tmp_path):
    format = PromptFormat(instruction=TRAINED, labels=labels)
    return Fake(adapter_with(format, tmp_path / "adapter"))


def ask(fake, question):
    content = {"input": "The house is on fire.", "questions": [question]}
    response = fake.post("/v1/decisions", content)
    return response.json()["answers"][0] if response.status_code == 200 else response


def ask_system_one(fake, question):
    content = {"state": "The house is on fire.", "questions": {"q": question}}
    response = fake.post("/v1/systemone", content)
    return response.json()["answers"]["q"] if response.status_code == 200 else response


@pytest.mark.parametrize(
    ("labels", "probability"),
    [(("yes", "no"), 2 / 3), (("No", "Yes"), 1 / 3), (("true", "false"), 2 / 3)],
)
def test_an_adapter_whose_labels_are_yes_and_no_answers_predicates(tmp_path, labels, probability):
    fake = fake_with(labels, tmp_path)
    answer = ask(fake, {"type": "predicate", "instructions": TRAINED})
    assert answer["probability"] == pytest.approx(probability)
    answer = ask_system_one(fake, {"type": "noul", "instructions": TRAINED})
    assert answer["noul"] == pytest.approx(probability) and "descriptions_used" not in answer
    described = {"type": "noul", "criteria": {"true": "now", "false": "later"}}
    answer = ask_system_one(fake, described)
    assert answer["noul"] == pytest.approx(probability) and answer["descriptions_used"] is False
    response = ask(fake, {"type": "predicate", "instructions": "Is it a fire?"})
    assert response.status_code == 422 and TRAINED in response.text


def test_an_adapter_with_other_labels_is_told_which_one_means_yes(tmp_path):
    fake = fake_with(("spam", "ham"), tmp_path)
    for question in (
        {"type": "noul", "criteria": {"true": "spam", "false": "ham"}},
        {"type": "noul", "instructions": TRAINED, "criteria": {"false": "ham", "true": "spam"}},
    ):
        assert ask_system_one(fake, question)["noul"] == pytest.approx(2 / 3)
    turned = {"type": "noul", "criteria": {"true": "ham", "false": "spam"}}
    assert ask_system_one(fake, turned)["noul"] == pytest.approx(1 / 3)
    for response in (
        ask(fake, {"type": "predicate", "instructions": TRAINED}),
        ask_system_one(fake, {"type": "noul", "instructions": TRAINED}),
        ask_system_one(fake, {"type": "noul", "criteria": {"true": "spam", "false": "eggs"}}),
    ):
        assert response.status_code == 422
        assert "which label means yes" in response.text and "spam, ham" in response.text
    response = ask_system_one(fake, {"type": "noul", "criteria": {}})
    assert response.status_code == 422 and "no question" in response.text


def test_an_adapter_with_three_labels_affirms_nothing(tmp_path):
    fake = fake_with(("yes", "no", "unknown"), tmp_path)
    assert ask(fake, {"type": "predicate", "instructions": TRAINED}).status_code == 422


def test_an_adapter_says_that_it_does_not_read_descriptions(fake):
    plain = ask(fake, {"type": "choice", "choices": CHOICES})
    described = [{**choice, "description": "kanarienvogel"} for choice in CHOICES]
    answer = ask(fake, {"type": "choice", "choices": described})
    assert "descriptions_used" not in plain
    assert answer == {**plain, "descriptions_used": False}
    levels = [{"label": "negative", "description": "bad"}, {"label": "positive"}]
    assert ask(fake, {"type": "score", "levels": levels})["descriptions_used"] is False
    criteria = {"negative": {"such as": ["dull"]}, "positive": None}
    answer = ask_system_one(fake, {"type": "choice", "criteria": criteria})
    assert answer["descriptions_used"] is False
    base = {"model": "embedded", "input": "a", "questions": [{"type": "choice",
            "choices": described}]}  # fmt: skip
    assert "descriptions_used" not in fake.post("/v1/decisions", base).json()["answers"][0]


def test_parts_of_texts_and_of_data_are_read(fake):
    """As openai-python 3.57 types them."""
    data = {"type": "input_json", "data": {"stars": 5, "note": "é"}}
    text = {
        "type": "input_text",
        "text": "A film.",
        "prompt_cache_breakpoint": {"mode": "explicit"},
    }
    content = {
        "model": "embedded",
        "input": [{"role": "user", "content": [text, data]}],
        "questions": [{"type": "predicate", "instructions": [data, text]}],
        "prompt_cache_key": "k",
        "prompt_cache_options": {"mode": "implicit", "ttl": "30m"},
    }
    assert fake.post("/v1/decisions", content).status_code == 200
    image = {"type": "input_image", "image_url": "data:image/png;base64,AAAA"}
    content["input"] = [{"role": "user", "content": [image]}]
    assert fake.post("/v1/decisions", content).status_code == 422


# --- columns -------------------------------------------------------------------------------------


def test_an_adapter_with_columns_takes_objects(server, calibrated_adapter, titled):
    root = calibrated_adapter.parent
    shutil.copytree(titled, root / "titled")
    order = {"lora_name": "titled", "lora_path": "titled"}
    assert server.post("/v1/load_lora_adapter", order).status_code == 200
    try:
        content = {"model": "titled", "input": RECORDS, "deterministic": True}
        items = server.post("/v1/classify", content).json()["data"]
        one = {"model": "titled", "input": RECORDS[0], "deterministic": True}
        [first] = server.post("/v1/classify", one).json()["data"]
        question = {"type": "choice", "criteria": {"positive": None, "negative": None}}
        content = {"model": "titled", "state": RECORDS[0], "questions": {"q": question},
                   "deterministic": True}  # fmt: skip
        answer = server.post("/v1/systemone", content).json()["answers"]["q"]
        explained = server.post("/v1/explain", {"model": "titled", "input": RECORDS[0]})
    finally:
        server.post("/v1/unload_lora_adapter", {"lora_name": "titled"})
    classifier = Classifier.load(titled, device="cpu")
    expected = np.concatenate([classifier.predict_proba([record]) for record in RECORDS])
    np.testing.assert_array_equal([item["probs"] for item in items], expected)
    assert [item["truncated"] for item in items] == [False, True, False]
    assert first["probs"] == items[0]["probs"]
    assert list(answer["probabilities"].values()) == items[0]["probs"]
    assert explained.status_code == 200, explained.text


@pytest.mark.parametrize(
    ("route", "content"),
    [
        ("/v1/classify", {"input": "kanarienvogel"}),
        ("/v1/classify", {"input": ["kanarienvogel"]}),
        ("/v1/classify", {"input": {"text": "kanarienvogel"}}),
        ("/v1/classify", {"messages": [{"role": "user", "content": "kanarienvogel"}]}),
        ("/v1/explain", {"input": "kanarienvogel"}),
        ("/v1/decisions", {"input": "kanarienvogel", "questions": [
            {"type": "choice", "choices": CHOICES}]}),
        ("/v1/systemone", {"state": "kanarienvogel", "questions": {"q": {
            "type": "choice", "criteria": {"positive": None, "negative": None}}}}),
        ("/predict", {"inputs": "kanarienvogel"}),
        ("/invocations", {"inputs": [["kanarienvogel"]]}),
        ("/v2/models/films/infer", {"inputs": [
            {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["kanarienvogel"]}]}),
    ],
)  # fmt: skip
def test_where_columns_are_missing_the_answer_names_them(titled, route, content):
    response = Fake(titled).post(route, content)
    assert response.status_code == 422
    assert "text, title" in response.text and "kanarienvogel" not in response.text


@pytest.mark.parametrize("title", [["kanarienvogel"], {"kanarienvogel": 1}])
def test_a_column_without_a_text_is_named(titled, title):
    content = {"input": [{"text": "a", "title": title}]}
    response = Fake(titled).post("/v1/classify", content)
    assert response.status_code == 422
    assert "`title` of object 0" in response.text and "kanarienvogel" not in response.text
