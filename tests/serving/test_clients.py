"""What docs/guide/serve.md shows: each curl and each client, run against a server."""

import asyncio
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import requests
from servers import running

from sentilora import Classifier, shipped_adapter

GUIDE = (Path(__file__).parents[2] / "docs" / "guide" / "serve.md").read_text("utf-8")
PYTHON = re.findall(r"^```python\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
CURLS = re.findall(
    r"^\$ (curl .*?)(?=^\$ |\Z)",
    "\n".join(re.findall(r"^```console\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)),
    re.MULTILINE | re.DOTALL,
)
TEXTS = ["A lovely film.", "Dull and long. " * 40, "No 🎬."]
IN_BETA = "ignore:The class `OpenAIDecisions` is in beta"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The shipped adapter, called my-adapter as in the guide."""
    folder = tmp_path_factory.mktemp("clients")
    shutil.copytree(shipped_adapter(), folder / "my-adapter")
    with running(folder, "--adapter", folder / "my-adapter") as server:
        yield server


@pytest.fixture(scope="module")
def expected():
    classifier = Classifier.load(device="cpu")
    return [dict(zip(classifier.labels, row, strict=True)) for row in proba(classifier)]


def proba(classifier):
    return classifier.predict_proba(TEXTS).tolist()


def here(source, server):
    return source.replace("http://localhost:8000", server.url).replace("localhost:8000", server.url)


@pytest.mark.parametrize("number", range(len(CURLS)))
def test_a_curl_of_the_guide(served, number):
    command = here(CURLS[number], served)
    done = subprocess.run(shlex.split(command), capture_output=True, text=True, check=True)
    content = json.loads(done.stdout)
    assert "error" not in content and '"positive"' in done.stdout, done.stdout


@pytest.mark.filterwarnings(IN_BETA)
@pytest.mark.parametrize("number", range(len(PYTHON)))
def test_a_client_of_the_guide(served, number, capsys):
    source = PYTHON[number]
    for package in re.findall(r"^(?:from|import) (\w+)", source, re.MULTILINE):
        pytest.importorskip(package)
    exec(compile(here(source, served), "serve.md", "exec"), {})
    assert capsys.readouterr().out.split()[0] == "positive"


def test_the_guide_shows_every_client():
    assert len(CURLS) == 3 and len(PYTHON) == 4
    for name in ("requests", "openai", "langchain_openai", "typesafe_sdk"):
        assert any(re.search(rf"^(from|import) {name}\b", source, re.M) for source in PYTHON)


def question(server):
    return server.client.get("/v1/models").json()["data"][0]["instructions"]


def test_openai_types_every_answer(served, expected):
    openai = pytest.importorskip("openai")
    choices = [{"value": "negative", "description": "bad"}, {"value": "positive"}]
    own = {"type": "choice", "name": "s", "instructions": question(served), "choices": choices}
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:
        for text, row in zip(TEXTS, expected, strict=True):
            part = {"type": "input_text", "text": text}
            for content in (text, [{"role": "user", "content": [part]}]):
                decision = client.decisions.create(
                    model="my-adapter", input=content, questions=[own]
                )
                [answer] = decision.answers
                got = {item.value: item.probability for item in answer.probabilities}
                assert got == pytest.approx(row, abs=1e-5)
                assert answer.choice == max(row, key=row.get) and answer.name == "s"
                assert answer.descriptions_used is False
        levels = [{"label": "bad"}, {"label": "fair", "description": "so so"}, {"label": "good"}]
        decision = client.decisions.create(
            model="embedded",
            input=[{"role": "user", "content": [{"type": "input_json", "data": {"stars": 5}}]}],
            questions=[
                {"type": "predicate", "instructions": "Is it good?"},
                {"type": "score", "instructions": "How good?", "levels": levels},
            ],
        )
        predicate, score = decision.answers
        assert 0 <= predicate.probability <= 1 and 0 <= score.score <= 2
        assert [level.label for level in score.probabilities] == ["bad", "fair", "good"]
        assert decision.usage.total_tokens > 0
        with pytest.raises(openai.NotFoundError, match="no such model"):
            client.decisions.create(model="gpt-6-luna", input="a", questions=[own])
        with pytest.raises(openai.UnprocessableEntityError, match="positive, negative"):
            other = {**own, "choices": [{"value": "billing"}, {"value": "positive"}]}
            client.decisions.create(model="my-adapter", input="a", questions=[other])


@pytest.mark.filterwarnings(IN_BETA)
def test_langchain_types_every_answer(served, expected):
    module = pytest.importorskip("langchain_openai.decisions")
    options = {"base_url": f"{served.url}/v1", "api_key": "none", "max_retries": 0}
    adapter = module.OpenAIDecisions(model="my-adapter", **options)
    choice = module.Choice(
        instructions=question(served), choices={"positive": "praise", "negative": None}
    )
    requests_ = [{"input": text, "questions": {"s": choice}} for text in TEXTS]
    answers = [adapter.invoke(request) for request in requests_]

    async def ask_all():
        try:
            return await adapter.abatch(requests_)
        finally:
            await adapter._async_client.close()

    answers += asyncio.run(ask_all())
    for answer, row in zip(answers, [*expected, *expected], strict=True):
        assert answer.choices["s"].probabilities == pytest.approx(row, abs=1e-5)
        assert answer.choices["s"].choice == max(row, key=row.get)
    base = module.OpenAIDecisions(model="embedded", **options)
    questions = {
        "good": module.Predicate(instructions="Is it good?"),
        "stars": module.Score(instructions="How good?", levels=["bad", "fair", "good"]),
    }
    answer = base.invoke({"input": {"review": TEXTS[0], "stars": 5}, "questions": questions})
    assert 0 <= answer.predicates["good"].probability <= 1
    assert answer.scores["stars"].legend == {0: "bad", 1: "fair", 2: "good"}


def test_typesafes_client_types_every_answer(served, expected):
    sdk = pytest.importorskip("typesafe_sdk")
    retry = sdk.RetryPolicy(max_retries=0)
    with sdk.TypeSafeClient(base_url=served.url, api_key="none", retry=retry) as client:
        listed = client.models.list().models
        assert [model.name for model in listed] == ["my-adapter", "embedded"]
        criteria = {"negative": {"such as": "boring"}, "positive": None}
        for text, row in zip(TEXTS, expected, strict=True):
            result = client.system_one(
                state=text, questions={"s": sdk.Choice(criteria=criteria)}, model="my-adapter"
            )
            assert result.choices["s"].probabilities == pytest.approx(row, abs=1e-5)
            assert result.choices["s"].choice == max(row, key=row.get)
        noul = sdk.Noul(criteria={"true": "negative", "false": "positive"})
        result = client.system_one(state=TEXTS[0], questions={"n": noul}, model="my-adapter")
        assert result.nouls["n"].noul == pytest.approx(expected[0]["negative"], abs=1e-5)
        questions = {
            "n": sdk.Noul(instructions="Is it good?", criteria={"true": "praise"}),
            "c": sdk.Choice(instructions={"task": "topic"}, criteria={"film": None, "food": "eat"}),
            "s": sdk.Score(instructions="How good?", criteria=["bad", "fair", "good"]),
        }
        result = client.system_one(state={"a": [1]}, questions=questions, model="embedded")
        assert 0 <= result.nouls["n"].noul <= 1 and result.choices["c"].choice in ("film", "food")
        assert result.scores["s"].legend == {0: "bad", 1: "fair", 2: "good"}
        with pytest.raises(sdk.TypeSafeNotFoundError, match="no such model"):
            client.system_one(state="a", questions={"n": noul})  # jev-latest


def test_requests_as_vllms_documentation_has_it(served, expected):
    prompts = {"model": "my-adapter", "input": TEXTS}
    content = requests.post(f"{served.url}/classify", json=prompts, timeout=60).json()
    for item, row in zip(content["data"], expected, strict=True):
        assert item["label"] == max(row, key=row.get)
        assert item["probs"] == pytest.approx(list(row.values()), abs=1e-5)
        assert item["num_classes"] == len(item["probs"]) == 2
