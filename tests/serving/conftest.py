"""What the server's tests share: an adapter with a calibration, a server without a model."""

import shutil

import pytest
from servers import Fake, running

from sentilora import Classifier, shipped_adapter
from sentilora.folders.adapter_folder import AdapterFolder
from sentilora.folders.classifier_file import Calibration

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
