"""hub.py: out of reach is an error within seconds; offline mode and proxies are left alone."""

import socket
import time

import pytest
from huggingface_hub import constants

from sentilora.errors import DataError
from sentilora.hub import hub_endpoint, hub_reachable, looks_like_hub_id, require_hub


@pytest.fixture
def listening():
    """Address of a server that accepts connections."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_hub_out_of_reach_is_an_error_within_seconds():
    started = time.monotonic()
    with pytest.raises(DataError, match="'a/b' is not a local file or folder") as error:
        require_hub("a/b", "name a folder")
    assert time.monotonic() - started < 4
    assert f"the hub ({hub_endpoint()}) is not reachable" in error.value.problem
    assert error.value.remedy == "name a folder, or set HF_HUB_OFFLINE=1 to use what is cached"
    assert error.value.seen == "a/b" and error.value.exit_code == 3


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9", "http://no.such.host.invalid"])
def test_an_address_that_does_not_answer_is_not_reachable(monkeypatch, endpoint):
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    assert not hub_reachable()


def test_a_hub_that_answers_is_reachable(monkeypatch, listening):
    monkeypatch.setattr(constants, "ENDPOINT", listening)
    assert hub_endpoint() == listening and hub_reachable()
    require_hub("a/b", "name a folder")


def test_offline_mode_works_from_the_cache(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    require_hub("a/b", "name a folder")


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"])
def test_a_proxy_is_trusted_to_reach_the_hub(monkeypatch, name):
    monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert hub_reachable()
    require_hub("a/b", "name a folder")


def test_what_looks_like_a_hub_id():
    for name in ("stanfordnlp/imdb", "imdb", "mistralai/Mistral-7B-v0.1", "a_b/c-d.e", "x.csv"):
        assert looks_like_hub_id(name), name
    for name in ("./imdb", "/imdb", "~/imdb", "a/b/c", "a b", "..", ""):
        assert not looks_like_hub_id(name), name
