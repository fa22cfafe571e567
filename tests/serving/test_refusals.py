"""What is refused, with which status, in which words; nothing of a request is ever echoed."""

import asyncio
import gzip
import itertools
import zlib

import orjson
import pyarrow
import pytest
from fastapi.routing import APIRoute
from servers import Fake

from sentilora.serving.errors import TABLE, Refusal
from sentilora.serving.queue import Entry, Expired
from sentilora.serving.worker import ScoringFailed, Unavailable

CANARY = "kanarienvogel"
JSON = {"content-type": "application/json"}
CHOICE = {"type": "choice", "choices": [{"value": "positive"}, {"value": "negative"}]}


def question(**changes):
    return {"input": "a", "questions": [{**CHOICE, **changes}]}


def oip(**changes):
    tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a"], **changes}
    return {"inputs": [tensor]}


def zstd(data):
    return pyarrow.compress(data, codec="zstd", asbytes=True)


RAW = [  # body, headers, status
    (b"{", JSON, 400),
    (b'{"input": NaN}', JSON, 400),
    (b'{"input": "\xff"}', JSON, 400),
    (b'{"input": "a", "input": "b"}', JSON, 400),
    (b"[" * 100_001, JSON, 413),
    (b"[" * 50_000, JSON, 400),
    (b'{"input": "\\ud800' + CANARY.encode() + b'"}', JSON, 422),
    (b'{"input": "a"}', {"content-type": "text/plain"}, 415),
    (b"input=a", {"content-type": "application/x-www-form-urlencoded"}, 415),
    (b'{"input": "a"}', {**JSON, "content-encoding": "br"}, 400),
    (b'{"input": "a"}', {**JSON, "content-encoding": "gzip"}, 400),
    (gzip.compress(b'{"input": "a"}', mtime=0)[:-9], {**JSON, "content-encoding": "gzip"}, 400),
    (gzip.compress(b" " * 10**7, mtime=0), {**JSON, "content-encoding": "gzip"}, 413),
    (b"xx", {**JSON, "content-encoding": "zstd"}, 400),
    (zstd(b" " * 10**8), {**JSON, "content-encoding": "zstd"}, 413),
    (zstd(b'{"input": ""}'), {**JSON, "content-encoding": "zstd"}, 422),
    (zlib.compress(b'{"input": ""}'), {**JSON, "content-encoding": "deflate"}, 422),
    (b"", JSON, 422),
    (b"null", JSON, 422),
    (b"[]", JSON, 422),
]


@pytest.mark.parametrize(("body", "headers", "status"), RAW)
def test_a_body_that_cannot_be_read(fake, body, headers, status):
    response = fake.client.post("/v1/classify", content=body, headers=headers)
    assert response.status_code == status, response.text
    assert response.json()["error"]["code"] == status
    assert CANARY not in response.text


CONTENTS = [  # route, content, status
    ("/v1/classify", {"input": []}, 400),
    ("/v1/classify", {"input": ""}, 422),
    ("/v1/classify", {"input": " \n<br />"}, 422),
    ("/v1/classify", {"input": [1, 2]}, 422),
    ("/v1/classify", {"input": [[1, 2]]}, 422),
    ("/v1/classify", {"input": {"text": CANARY}}, 422),
    ("/v1/classify", {"input": [CANARY, 7]}, 422),
    ("/v1/classify", {"input": CANARY, CANARY: 1}, 422),
    ("/v1/classify", {"input": CANARY, "model": CANARY}, 404),
    ("/v1/classify", {"input": ["a"] * 9}, 413),
    ("/v1/classify", {"input": "a", "messages": []}, 422),
    ("/v1/classify", {"messages": [{"role": "system", "content": CANARY}]}, 422),
    ("/v1/classify", {"input": "a", "truncation_side": "right"}, 422),
    ("/v1/classify", {"input": "a", "truncate_prompt_tokens": 7}, 422),
    ("/v1/classify", {"input": "a", "use_activation": False}, 422),
    ("/classify", {"input": 7}, 422),
    ("/v1/decisions", question(choices=[{"value": "positive"}, {"value": CANARY}]), 422),
    ("/v1/decisions", question(choices=[{"value": "positive"}]), 422),
    ("/v1/decisions", question(choices=[{"value": "positive"}] * 2), 422),
    ("/v1/decisions", question(instructions=CANARY), 422),
    ("/v1/decisions", question(type=CANARY), 422),
    ("/v1/decisions", {**question(), "input": ""}, 422),
    ("/v1/decisions", {**question(choices=[{"value": " "}, {"value": "a "}]),
        "model": "embedded"}, 422),
    ("/v1/decisions", {**question(choices=[{"value": "x" * 9000}, {"value": "a"}]),
        "model": "embedded"}, 422),
    ("/v1/decisions", {**question(), "questions": []}, 422),
    ("/v1/decisions", {**question(), "questions": [CHOICE] * 9}, 413),
    ("/v1/decisions", {**question(), "model": "gpt"}, 404),
    ("/v1/decisions", question(type="predicate"), 422),
    ("/v1/systemone", {"state": "a", "questions": {}}, 422),
    ("/v1/systemone", {"state": {CANARY: 1}, "questions": {"q": {"type": "choice",
        "criteria": {"positive": None, "negative": None}}}}, 422),
    ("/v1/systemone", {"state": "a", "questions": {CANARY: {"type": "choice",
        "criteria": {"positive": 7, CANARY: None}}}}, 422),
    ("/v1/systemone", {"state": "a", "questions": {"q": {"type": "noul",
        "instructions": "urgent?"}}}, 422),
    ("/predict", {"inputs": ["a", CANARY]}, 422),
    ("/predict", {"inputs": []}, 400),
    ("/predict", {"inputs": [["a", "b"]]}, 422),
    ("/predict", {"inputs": "a", "raw_scores": True}, 422),
    ("/predict", {"inputs": "long " * 2000, "truncate": False}, 422),
    ("/invocations", {"inputs": CANARY, "truncation_direction": "right"}, 422),
    ("/v2/models/gpt/infer", oip(), 404),
    ("/v2/models/films/versions/2/infer", oip(), 404),
    ("/v2/models/films/infer", oip(shape=[2]), 422),
    ("/v2/models/films/infer", oip(datatype="FP32"), 422),
    ("/v2/models/films/infer", oip(data=[7]), 422),
    ("/v2/models/films/infer", {"inputs": []}, 422),
    ("/v2/models/films/infer", {**oip(), "outputs": [{"name": CANARY}]}, 422),
    ("/v1/explain", {"input": ""}, 422),
    ("/v1/explain", {"input": CANARY, "model": "gpt"}, 404),
    ("/v1/load_lora_adapter", {"lora_name": "a", "lora_path": "b"}, 403),
    ("/v1/review", {"text": CANARY, "label": "positive"}, 404),
    ("/nothing", {}, 404),
    ("/v1/models", {}, 405),
]  # fmt: skip


@pytest.mark.parametrize(("route", "content", "status"), CONTENTS)
def test_a_request_that_cannot_be_answered(fake, route, content, status, capfd):
    response = fake.post(route, content)
    assert response.status_code == status, response.text
    assert CANARY not in response.text + str(response.headers)
    error = response.json()["error"]
    is_string = route in ("/predict", "/invocations") or route.startswith("/v2")
    assert isinstance(error, str) if is_string else error["code"] == status
    assert CANARY not in "".join(capfd.readouterr())


STATES = [
    (Expired(), 504), (Unavailable(), 503), (ScoringFailed("RuntimeError"), 500),
    (ValueError(CANARY), 500),
]  # fmt: skip


@pytest.mark.parametrize("route", ["/v1/classify", "/predict"])
@pytest.mark.parametrize(("failure", "status"), STATES)
def test_what_fails_after_the_queue(calibrated_adapter, route, failure, status, capfd):
    fake = Fake(calibrated_adapter)
    fake.client = type(fake.client)(fake.gate, "http://localhost", raise_server_exceptions=False)
    fake.worker.failure = failure
    response = fake.post(route, {"inputs" if route == "/predict" else "input": CANARY})
    assert response.status_code == status
    assert ("retry-after" in response.headers) == (status == 503)
    log = "".join(capfd.readouterr())
    assert CANARY not in response.text + log
    if isinstance(failure, ValueError):
        assert response.headers["x-request-id"] in log and "ValueError" in log
        assert response.headers["content-type"] == "application/json" and response.json()["error"]


def test_a_server_that_is_not_ready_or_is_draining_says_so(fake):
    fake.worker.state = "restarting"
    for response in (fake.post("/v1/classify", {"input": "a"}), fake.client.get("/readyz")):
        assert response.status_code == 503
        assert response.headers["retry-after"]
        assert "restarting" in response.text
    assert fake.client.get("/livez").json() == {"live": True}
    fake.worker.state, fake.answering.is_draining = "ready", True
    assert "shutting down" in fake.client.get("/v2/health/ready").text


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": "http://localhost"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://localhost:8499"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "https://behind.a.proxy"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Origin": "http://localhost:8499"}, 403),
        ({"Host": "127.0.0.1:8000"}, 200),
        ({"Host": "[::1]:8000"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "["}, 403),
    ],
)
def test_pages_of_other_sites_cannot_use_a_server_without_a_key(fake, headers, status):
    """A page elsewhere labeled texts and swapped adapters, by a POST without a Content-Type."""
    response = fake.post("/v1/classify", {"input": "a"}, headers=headers)
    assert response.status_code == status
    if "Host" in headers:
        assert fake.client.get("/v1/models", headers=headers).status_code == status
    elif status == 403:
        assert fake.client.get("/v1/models", headers=headers).status_code == 200


def test_a_server_with_a_key_answers_to_any_name(calibrated_adapter):
    fake = Fake(calibrated_adapter, api_key="secret")
    headers = {"Host": "films.example", "X-API-Key": "secret"}
    assert fake.post("/v1/classify", {"input": "a"}, headers=headers).status_code == 200


def test_a_refusal_for_overload_is_held_back(fake):
    """text-embeddings-inference #662, and a prototype that immediate refusals took to 0/s."""
    fake.worker.queue.pace.add(100, 1.0)
    fake.worker.queue._tokens[0] = 1200  # 12 s of work
    response = fake.post("/v1/classify", {"input": CANARY})
    assert response.status_code == 429
    assert response.elapsed.total_seconds() >= 0.2
    assert response.headers["retry-after"] == "8"
    assert fake.post("/v1/explain", {"input": "a"}).status_code == 429
    assert fake.answering.num_held == 0


def test_texts_of_clients_that_left_do_not_refuse_the_next_one(fake):
    """1,000 of them did, until the next pass."""
    queue = fake.worker.queue
    queue.pace.add(100, 1.0)
    loop = asyncio.new_event_loop()
    for _ in range(12):
        future = loop.create_future()
        queue.add([Entry([0] * 100, (), future, float("inf"))])
        future.cancel()
    loop.close()
    assert queue.predicted_wait() > fake.answering.limits.max_wait
    assert fake.post("/v1/classify", {"input": "a"}).status_code == 200


def test_the_table_has_every_status_that_the_code_uses():
    assert {400, 401, 403, 404, 413, 415, 422, 429, 500, 503, 504} <= set(TABLE)
    assert Refusal(404, "x").status_code == 404


# --- keys ----------------------------------------------------------------------------------------

OPEN = {"/livez", "/v2/health/live"}
ADMIN = {"/v1/load_lora_adapter", "/v1/unload_lora_adapter"}


def routes_of(app):
    for route in app.routes:
        if isinstance(route, APIRoute) or hasattr(route, "methods"):
            path = route.path.replace("{name}", "films").replace("{version}", "1")
            for method in route.methods - {"HEAD"}:
                yield method, path


def every_route(app):
    """(method, path) of every route, those of included routers too."""
    described = [
        (method.upper(), path.replace("{name}", "films").replace("{version}", "1"))
        for path, methods in app.openapi()["paths"].items()
        for method in methods
    ]
    return sorted({*described, *routes_of(app)})


def test_every_route_but_liveness_is_behind_the_key(calibrated_adapter):
    """vLLM #58144, #18892: /classify and others are open in spite of a key."""
    fake = Fake(calibrated_adapter, api_key="geheim", admin_key="chef")
    routes = every_route(fake.app)
    assert len(routes) >= 20
    tokens = ["Bearer falsch", "geheim", "Basic geheim"]
    wrong = [{}, *({"authorization": token} for token in tokens)]
    wrong += [{"x-api-key": ""}, {"x-api-key": "gehei"}]
    for (method, path), headers in itertools.product(routes, wrong):
        response = fake.client.request(method, path, headers=headers)
        assert response.status_code == (200 if path in OPEN else 401), (path, headers)
        assert "geheim" not in response.text
    for method, path in routes:
        key = {"authorization": "Bearer geheim"}
        response = fake.client.request(method, path, headers=key)
        assert (response.status_code == 403) == (path in ADMIN), path
        assert response.status_code != 401, path
        response = fake.client.request(method, path, headers={"x-api-key": "chef"})
        assert response.status_code != 401, path


def test_the_slash_at_an_end_opens_nothing(calibrated_adapter):
    fake = Fake(calibrated_adapter, api_key="geheim")
    for path in ("/livez/../v1/models", "//livez", "/LIVEZ", "/page/../v1/models", "/v1/models/"):
        response = fake.client.get(path, follow_redirects=False)
        assert response.status_code in (401, 404), path


def test_no_origin_is_let_in(fake):
    response = fake.client.get("/v1/models", headers={"origin": "https://evil.example"})
    assert not any("access-control" in name for name in response.headers)


def test_request_ids_and_traces_are_echoed_if_they_are_plain(fake):
    headers = {"x-request-id": "abc-1", "traceparent": "00-1-2-01"}
    response = fake.client.get("/livez", headers=headers)
    assert (response.headers["x-request-id"], response.headers["traceparent"]) == (
        "abc-1", "00-1-2-01")  # fmt: skip
    response = fake.client.get("/livez", headers={"x-request-id": "a b" + "c" * 99})
    assert len(response.headers["x-request-id"]) == 32


def test_a_packed_body_is_read(fake):
    for pack, name in ((gzip.compress, "gzip"), (zlib.compress, "deflate"), (zstd, "zstd")):
        body = pack(orjson.dumps({"input": "a"}))
        headers = {**JSON, "content-encoding": name}
        assert fake.client.post("/v1/classify", content=body, headers=headers).status_code == 200


def test_the_page_is_static_open_and_from_here_only(calibrated_adapter, tmp_path):
    (tmp_path / "index.html").write_text("<title>page</title>")
    (tmp_path / "page.js").write_text("1")
    fake = Fake(calibrated_adapter, api_key="geheim", page=tmp_path)
    for path, kind in (("/", "text/html"), ("/page/page.js", "javascript")):
        response = fake.client.get(path)
        assert response.status_code == 200 and kind in response.headers["content-type"]
        assert response.headers["content-security-policy"].startswith("default-src 'self'")
    for path in ("/page/none.js", "/page/%2e%2e/%2e%2e/etc/passwd"):
        assert fake.client.get(path).status_code == 404
    assert Fake(calibrated_adapter).client.get("/").status_code == 404
