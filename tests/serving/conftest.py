"""What the server's tests share: an adapter with a calibration, a server without a model."""

import shutil
from dataclasses import replace
from functools import partial

import pytest
from browsing import KEY, MANY_LABELS, visit_with
from servers import Fake, running

from sentilora import Classifier, shipped_adapter
from sentilora.folders.adapter_folder import AdapterFolder
from sentilora.folders.classifier_file import Calibration
from sentilora.folders.probes_file import ProbesFile
from sentilora.models.bases import load_tokenizer
from sentilora.prompt import Prompter

CALIBRATION = Calibration(temperature=1.7, abstain_below=0.9)


@pytest.fixture(scope="session")
def calibrated_adapter(tmp_path_factory):
    """The shipped adapter with a temperature and a threshold."""
    folder = tmp_path_factory.mktemp("calibrated") / "films"
    shutil.copytree(shipped_adapter(), folder)
    record = AdapterFolder.open(folder).classifier
    record.model_copy(update={"calibration": CALIBRATION}).save(folder)
    return folder


@pytest.fixture(scope="session")
def classifier(calibrated_adapter):
    return Classifier.load(calibrated_adapter, device="cpu")


@pytest.fixture
def fake(calibrated_adapter):
    return Fake(calibrated_adapter)


@pytest.fixture(scope="module")
def server(calibrated_adapter, tmp_path_factory):
    """A server of the calibrated adapter, which is called films."""
    folder = tmp_path_factory.mktemp("server")
    reviews = folder / "reviews.sqlite"
    arguments = ("--adapter", calibrated_adapter, "--adapter-root", calibrated_adapter.parent)
    with running(folder, *arguments, "--review-store", reviews) as server:
        yield server


@pytest.fixture(scope="session")
def other_adapters(tmp_path_factory):
    """[NAME=DIR] of the shipped adapter with another prompt: two columns, and many labels."""
    tokenizer = load_tokenizer("embedded")
    changes = {
        "titled": {"template": "Title: {title}\n\n{text}\n\n### Sentiment:\n", "instruction": ""},
        "intents": {"labels": tuple(MANY_LABELS)},
    }
    names = []
    for name, change in changes.items():
        folder = tmp_path_factory.mktemp("adapters") / name
        shutil.copytree(shipped_adapter(), folder)
        (folder / ProbesFile.FILE).unlink()  # of another prompt
        record = AdapterFolder.open(folder).classifier
        prompt = replace(record.prompt, **change)
        ids = [list(ids) for ids in Prompter(tokenizer, prompt).label_ids]
        record.model_copy(update={"prompt": prompt, "label_ids": ids}).save(folder)
        names.append(f"{name}={folder}")
    return names


@pytest.fixture(scope="session")
def page_server(calibrated_adapter, other_adapters, tmp_path_factory):
    """A server with all that the page shows: a key, three adapters, a store of reviews."""
    folder = tmp_path_factory.mktemp("page-server")
    arguments = [
        f"--adapter=films={calibrated_adapter}",
        *map("--adapter={}".format, other_adapters),
    ]
    arguments += ["--review-store", folder / "reviews.sqlite", "--api-key", KEY]
    with running(folder, *arguments, "--max-texts", 16) as server:
        server.client.headers["Authorization"] = f"Bearer {KEY}"
        yield server


@pytest.fixture
def visit(chromium, page_server):
    """Opens the page. Afterwards: no script error, no dialog, no request to anywhere else."""
    contexts, errors, urls = [], [], []
    url = page_server.url + "/"
    yield partial(visit_with, contexts, errors, urls, chromium, url)
    for context in contexts:
        context.close()
    # Chromium itself reports each refused request; a breach of the policy would read otherwise.
    assert [e for e in errors if not e.startswith("Failed to load resource")] == []
    assert urls and all(u.startswith((url, "blob:" + url)) for u in urls)
