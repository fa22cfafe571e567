"""A real server answers as the classifier does, on every route; what a client meets in its life."""

import asyncio
import json
import socket
import threading

import httpx
import numpy as np
import pytest
from servers import altered

from sentilora.scoring.explain import explain

TEXTS = ["A lovely film.", "Dull and long. " * 40, "It was a film.", "No 🎬.", "Fine. " * 900]
LABELS = ["positive", "negative"]
CHOICES = [{"value": "negative"}, {"value": "positive"}]


@pytest.fixture(scope="module")
def expected(classifier):
    return np.concatenate([classifier.predict_proba([text]) for text in TEXTS])


@pytest.fixture(scope="module")
def abstentions(classifier):
    return [label == "abstain" for label in classifier.predict(TEXTS)]


def answered(response):
    assert response.status_code == 200, response.text
    return response.json()


@pytest.mark.parametrize("route", ["/v1/classify", "/classify"])
def test_classify_gives_the_classifiers_answers(server, classifier, expected, abstentions, route):
    response = server.post(route, {"input": TEXTS})
    content = answered(response)
    rows = np.array([item["probs"] for item in content["data"]])
    np.testing.assert_allclose(rows, expected, atol=1e-5, rtol=0)
    assert [item["label"] for item in content["data"]] == [LABELS[i] for i in rows.argmax(1)]
    assert [item["abstained"] for item in content["data"]] == abstentions
    assert True in abstentions and False in abstentions
    assert [item["truncated"] for item in content["data"]] == [False] * 4 + [True]
    assert [item["index"] for item in content["data"]] == list(range(5))
    for item, row in zip(content["data"], rows, strict=True):
        assert item["probabilities"] == dict(zip(LABELS, row, strict=True))
        assert 0 < item["label_mass"] <= 1
    tokens = [len(classifier.prompter.encode(text).input_ids) for text in TEXTS]
    assert [item["tokens"] for item in content["data"]] == tokens
    assert content["usage"]["prompt_tokens"] == sum(tokens)
    assert response.headers["x-sentilora-truncated"] == "1"
    assert len(response.headers["x-model-digest"]) == 64


def test_a_deterministic_text_has_the_bits_of_predict_proba_alone(server, expected):
    content = answered(server.post("/v1/classify", {"input": TEXTS, "deterministic": True}))
    np.testing.assert_array_equal([item["probs"] for item in content["data"]], expected)


def test_the_base_answers_without_adapter_and_calibration(server, classifier):
    content = answered(server.post("/v1/classify", {"model": "embedded", "input": TEXTS}))
    [scores] = classifier.score(TEXTS, with_base=True)
    base = np.exp(scores.base_log_probs - scores.base_log_probs.max(1, keepdims=True))
    base /= base.sum(1, keepdims=True)
    rows = [item["probs"] for item in content["data"]]
    np.testing.assert_allclose(rows, base, atol=1e-5, rtol=0)
    assert not any(item["abstained"] for item in content["data"])


def test_decisions(server, expected, abstentions):
    question = {"type": "choice", "name": "s", "instructions": "", "choices": CHOICES}
    for text, row, abstains in zip(TEXTS, expected, abstentions, strict=True):
        content = {"model": "films", "input": text, "questions": [question]}
        [answer] = answered(server.post("/v1/decisions", content))["answers"]
        by_value = {x["value"]: x["probability"] for x in answer["probabilities"]}
        assert by_value == pytest.approx(dict(zip(LABELS, row, strict=True)), abs=1e-5)
        assert answer["choice"] == LABELS[row.argmax()] and answer["name"] == "s"
        assert answer["confidence"] == pytest.approx(2 * row.max() - 1, abs=1e-4)
        assert (answer["abstained"], answer["abstain_below"]) == (abstains, 0.9)
        headers = {"x-sentilora-abstain": "refusal"}
        [answer] = answered(server.post("/v1/decisions", content, headers=headers))["answers"]
        assert answer["type"] == ("refusal" if abstains else "choice")


def test_the_trained_question_is_accepted_and_shown(server):
    models = {model["id"]: model for model in answered(server.client.get("/v1/models"))["data"]}
    films = models["films"]
    question = {"type": "choice", "instructions": films["instructions"], "choices": CHOICES}
    content = {"input": [{"role": "user", "content": [{"type": "input_text", "text": "Dull."}]}]}
    answered(server.post("/v1/decisions", {**content, "questions": [question]}))
    assert (films["labels"], films["base"], films["type"]) == (LABELS, "embedded", "adapter")
    assert (films["abstain_below"], films["columns"]) == (0.9, [])
    assert (models["embedded"]["type"], models["embedded"]["labels"]) == ("base", LABELS)


def test_the_base_answers_any_question(server):
    questions = [
        {"type": "choice", "choices": [{"value": "sport"}, {"value": "{text} politics"}]},
        {"type": "predicate", "name": "p", "instructions": "Is it {about} a film?"},
        {"type": "score", "levels": [{"label": x} for x in ("low", "mid", "high")]},
    ]
    content = {"model": "embedded", "input": "A game.", "questions": questions}
    choice, predicate, score = answered(server.post("/v1/decisions", content))["answers"]
    assert sum(x["probability"] for x in choice["probabilities"]) == pytest.approx(1)
    assert (predicate["name"], score["probabilities"][2]["label"]) == ("p", "high")
    shares = [x["probability"] for x in score["probabilities"]]
    assert score["score"] == pytest.approx(shares[1] + 2 * shares[2])
    assert 0 <= predicate["probability"] <= 1


def test_system_one(server, expected):
    criteria = {"negative": None, "positive": "praise"}
    for state in (TEXTS[0], {"text": TEXTS[0]}):
        content = {"state": state, "questions": {"q": {"type": "choice", "criteria": criteria}}}
        answer = answered(server.post("/v1/systemone", content))["answers"]["q"]
        assert answer["probabilities"]["positive"] == pytest.approx(expected[0, 0], abs=1e-5)
    noul = {"type": "noul", "instructions": "Is it urgent?"}
    score = {"type": "score", "criteria": ["low", "high"]}
    content = {"model": "embedded", "state": {"a": 1}, "questions": {"n": noul, "s": score}}
    answers = answered(server.post("/v1/systemone", content))["answers"]
    assert set(answers["s"]["probabilities"]) == {"0", "1"}
    assert answers["s"]["legend"] == {"0": "low", "1": "high"}
    assert 0 <= answers["n"]["noul"] <= 1


def test_predict_of_tei(server, expected):
    for route in ("/predict", "/invocations"):
        one = answered(server.post(route, {"inputs": TEXTS[0]}))
        assert [x["label"] for x in one] == LABELS
        assert one == answered(server.post(route, {"inputs": [TEXTS[0]]}))
        many = answered(server.post(route, {"inputs": [[text] for text in TEXTS]}))
        for ranked, row in zip(many, expected, strict=True):
            scores = [x["score"] for x in ranked]
            assert scores == sorted(scores, reverse=True)
            assert scores == pytest.approx(sorted(row, reverse=True), abs=1e-5)
    info = answered(server.client.get("/info"))
    assert info["model_type"]["classifier"]["label2id"] == {"positive": 0, "negative": 1}


def test_open_inference_protocol(server, expected):
    tensor = {"name": "text", "shape": [5], "datatype": "BYTES", "data": TEXTS}
    content = {"id": "42", "inputs": [tensor], "outputs": [{"name": "probabilities"}]}
    for path in ("/v2/models/films/infer", "/v2/models/films/versions/1/infer"):
        body = answered(server.post(path, content))
        [output] = body["outputs"]
        assert (body["id"], output["shape"], output["datatype"]) == ("42", [5, 2], "FP64")
        rows = np.reshape(output["data"], (5, 2))
        np.testing.assert_allclose(rows, expected, atol=1e-5, rtol=0)
    assert answered(server.client.get("/v2/models/films/ready"))["ready"]
    assert answered(server.client.get("/v2/models/films"))["outputs"][1]["shape"] == [-1, 2]


def test_explain(server, classifier):
    text = "A lovely film, but not good."
    content = answered(server.post("/v1/explain", {"input": text}))
    own = explain(classifier.scorer, classifier.prompter, text, temperature=1.7)
    assert content["label"] == own.label
    assert content["probability"] == pytest.approx(own.probability, abs=1e-5)
    for word, other in zip(content["words"], own.words, strict=True):
        assert (word["start"], word["end"]) == (other.start, other.end)
        assert word["contribution"] == pytest.approx(other.contribution, abs=1e-3)


def test_reviews_are_kept_and_the_last_label_of_a_text_is_exported(server):
    assert answered(server.client.get("/v1/models"))["review"] is True
    item = {"model": "films", "text": "Hm …", "predicted": "positive", "label": "negative",
            "probabilities": {"positive": 0.6, "negative": 0.4}}  # fmt: skip
    count = answered(server.post("/v1/review", item))["count"]
    assert answered(server.post("/v1/review", {"text": "So …", "label": "negative"}))["count"]
    again = answered(server.post("/v1/review", item | {"label": "positive"}))
    assert again["count"] == count + 1
    lines = server.client.get("/v1/review/export").text.splitlines()
    rows = [json.loads(line) for line in lines]
    assert rows[-2:] == [
        {"text": "So …", "label": "negative"},
        {"text": "Hm …", "label": "positive"},
    ]
    assert [row["text"] for row in rows].count("Hm …") == 1
    assert server.client.get("/v1/review/export?model=embedded").text == ""
    assert server.client.get("/v1/review/export?model=other").status_code == 404
    refused = server.post("/v1/review", item | {"label": "so-so"})
    assert refused.status_code == 422 and "positive, negative" in refused.text


def test_metrics_count_answers_and_hold_no_text(server):
    answered(server.post("/v1/classify", {"input": "kanarienvogel"}))
    text = server.client.get("/metrics").text
    assert 'sentilora_answers_total{abstained="' in text and "kanarienvogel" not in text
    assert "kanarienvogel" not in server.log.read_text()


def leave(server, path, body):
    """Send a request and close the connection without waiting for the answer."""
    host, port = server.url.removeprefix("http://").split(":")
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(body)}\r\n\r\n"
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + body)


def test_clients_that_leave_harm_nobody(server, expected):
    """ray #41057, #42593, vLLM #54947: cancelled requests hang the batcher."""
    body = json.dumps({"input": TEXTS}).encode()
    for _ in range(1000):
        leave(server, "/v1/classify", body)
    content = answered(server.post("/v1/classify", {"input": TEXTS[:1]}))
    assert content["data"][0]["probs"] == pytest.approx(expected[0], abs=1e-5)


def test_many_clients_at_once_get_their_own_answers(server, expected):
    async def ask_all():
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            texts = TEXTS[:4] * 8
            return await asyncio.gather(
                *(client.post("/v1/classify", json={"input": text}) for text in texts)
            )

    for number, response in enumerate(asyncio.run(ask_all())):
        probs = answered(response)["data"][0]["probs"]
        assert probs == pytest.approx(expected[number % 4], abs=1e-5)


def test_adapters_are_loaded_swapped_and_dropped_under_load(server, expected, calibrated_adapter):
    failures, stop = [], threading.Event()

    def load():
        with httpx.Client(base_url=server.url, timeout=60) as client:
            while not stop.is_set():
                body = {"model": "films", "input": TEXTS[0]}
                response = client.post("/v1/classify", json=body)
                probs = response.json()["data"][0]["probs"] if response.is_success else None
                if probs != pytest.approx(expected[0], abs=1e-5):
                    failures.append((response.status_code, probs))

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        order = {"lora_name": "second", "lora_path": "films"}
        assert server.post("/v1/load_lora_adapter", order).status_code == 200
        assert server.post("/v1/load_lora_adapter", order).status_code == 422
        swap = {**order, "lora_name": "films", "load_inplace": True}
        assert server.post("/v1/load_lora_adapter", swap).status_code == 200
        second = server.post("/v1/classify", {"model": "second", "input": TEXTS[0]})
        assert answered(second)["data"][0]["probs"] == pytest.approx(expected[0], abs=1e-5)
        assert server.post("/v1/classify", {"input": "a"}).status_code == 422  # which one?
        drop = {"lora_name": "second"}
        assert server.post("/v1/unload_lora_adapter", drop).status_code == 200
        gone = server.post("/v1/classify", {"model": "second", "input": "a"})
        assert gone.status_code == 404
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures
    assert server.post("/v1/unload_lora_adapter", {"lora_name": "films"}).status_code == 422
    for path in ("..", "/etc", "../films/../..", "no-such"):
        order = {"lora_name": "x", "lora_path": path}
        assert server.post("/v1/load_lora_adapter", order).status_code == 422, path


def test_an_adapter_that_does_not_answer_as_trained_is_not_swapped_in(
    server, expected, calibrated_adapter
):
    """vLLM #42125: a reload in place left wrong answers."""
    altered(calibrated_adapter, calibrated_adapter.parent / "tampered")
    before = answered(server.client.get("/v1/models"))
    for order in ({"lora_name": "films", "load_inplace": True}, {"lora_name": "other"}):
        response = server.post("/v1/load_lora_adapter", {**order, "lora_path": "tampered"})
        assert response.status_code == 422
        assert "does not answer as it was trained" in response.text
    assert answered(server.client.get("/v1/models")) == before
    content = answered(server.post("/v1/classify", {"input": TEXTS, "deterministic": True}))
    np.testing.assert_array_equal([item["probs"] for item in content["data"]], expected)


def test_a_client_that_leaves_does_not_end_a_swap_halfway(server, expected, calibrated_adapter):
    """The answer of the model's process stayed in the pipe, and nothing was answered any more."""
    body = json.dumps({"lora_name": "films", "lora_path": "films", "load_inplace": True}).encode()
    before = server.log.read_text().count("\n")
    for _ in range(3):
        leave(server, "/v1/load_lora_adapter", body)
    for _ in range(3):
        content = answered(server.post("/v1/classify", {"input": TEXTS[:1]}))
        assert content["data"][0]["probs"] == pytest.approx(expected[0], abs=1e-5)
    assert answered(server.client.get("/readyz"))["restarts"] == 0
    assert server.log.read_text().count("\n") == before


def test_a_client_that_sends_too_much_is_told_the_limit(server):
    """text-embeddings-inference #50: the connection broke, and the server said nothing."""
    for _ in range(3):
        response = server.post("/v1/classify", {"input": "a" * 10_000_000})
        assert response.status_code == 413
        assert "4,194,304 bytes (`max_body_bytes`)" in response.text
