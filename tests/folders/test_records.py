"""The JSON files of a run: what is written is read again, whole or not at all, damage is named."""

import json
import os
import shutil
import stat

import pytest

from sentilora.data.rows import Rows
from sentilora.disk import write_atomically
from sentilora.errors import DataError
from sentilora.folders.checkpoints import (
    checkpoint_folder,
    checkpoints,
    last_checkpoint,
    run_of,
)
from sentilora.folders.run_folder import DataRecord, SplitRecord, TrainingResult, require_same_rows
from sentilora.metrics import Metrics

METRICS = Metrics(4, 0.75, (0.3, 0.95), 0.733, 0.5, [[2, 0], [1, 1]])
RESULT = TrainingResult(
    output_dir="run",
    metrics=METRICS,
    best_step=10,
    num_steps=20,
    train_seconds=60.0,
    step_seconds=1.0,
    peak_memory_gib=None,
    reload_difference=0.0,
)
ROWS = Rows("a.csv", ["A film.", "Dull."], ["positive", "negative"])


def test_what_is_written_is_read_again(tmp_path):
    record = DataRecord(train=SplitRecord.of(ROWS))
    RESULT.save(tmp_path)
    record.save(tmp_path)
    assert TrainingResult.load(tmp_path) == RESULT
    assert DataRecord.load(tmp_path) == record
    assert list(json.loads((tmp_path / "data.json").read_text())) == ["train"]
    assert sorted(os.listdir(tmp_path)) == ["data.json", "train_results.json"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: "", "it is not JSON (line 1)"),
        (lambda text: text[: len(text) // 2], "it is not JSON (line "),
        (lambda text: "[]", "it has no 'output_dir'"),
        (lambda text: text.replace('"best_step"', '"step"'), "it has no 'best_step'"),
        (lambda text: text.replace('"num_rows": 4', '"num_rows": "4"'), "its 'num_rows' is '4'"),
        (lambda text: text.replace("0.733", '"0.7"'), "its 'macro_f1' is '0.7'"),
        # valid JSON for Python, but no result
        (lambda text: text.replace("0.75", "NaN"), "its 'accuracy' is nan"),
        (lambda text: text.replace("0.75", "7.5"), "its 'accuracy' is 7.5"),
        (lambda text: text.replace("0.75", "0.5"), "its 'accuracy' is not that of its 'confusion'"),
        (lambda text: text.replace("0.95", "Infinity"), "its metrics.accuracy_interval holds inf"),
        (lambda text: text.replace("0.733", "-0.1"), "its 'macro_f1' is -0.1"),
        (lambda text: text.replace('"log_loss": 0.5', '"log_loss": NaN'), "its 'log_loss' is nan"),
        (lambda text: text.replace('"num_rows": 4', '"num_rows": 5'), "its 'confusion' does not"),
        (lambda text: text.replace('"num_rows": 4', '"num_rows": 0'), "its 'num_rows' is 0"),
        (lambda text: text.replace("60.0", "-60.0"), "its 'train_seconds' is -60.0"),
    ],
)
def test_a_damaged_result_is_named(tmp_path, change, reason):
    RESULT.save(tmp_path)
    path = tmp_path / TrainingResult.FILE
    path.write_text(change(path.read_text()))
    with pytest.raises(DataError) as error:
        TrainingResult.load(tmp_path)
    assert str(error.value).startswith(f"{path} is damaged: {reason}")
    assert error.value.setting == "train_results.json" and error.value.remedy


def test_a_missing_file_and_bytes_that_are_no_text_are_named_too(tmp_path):
    with pytest.raises(DataError, match=r"data\.json is missing; restore it"):
        DataRecord.load(tmp_path)
    (tmp_path / "data.json").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="it is not UTF-8 text"):
        DataRecord.load(tmp_path)
    DataRecord().save(tmp_path)
    with pytest.raises(DataError, match="it has no 'train'"):
        require_same_rows(tmp_path, DataRecord(train=SplitRecord.of(ROWS)))


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    write_atomically(path, "old\n")

    def full(self, target):
        raise OSError("No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, "new\n")
    assert path.read_text() == "old\n" and os.listdir(tmp_path) == ["x.json"]


def test_a_written_file_has_the_permissions_of_a_plain_one(tmp_path):
    (tmp_path / "plain").write_text("x")
    write_atomically(tmp_path / "atomic", "x")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "atomic")]
    assert modes[0] == modes[1]


def test_checkpoints_are_known_by_their_step(tmp_path):
    for step in (20, 100, 3):
        checkpoint_folder(tmp_path, step).mkdir()
    (tmp_path / "checkpoint-best").mkdir()
    assert list(checkpoints(tmp_path)) == [3, 20, 100]
    assert run_of(checkpoint_folder(tmp_path, 20)) == tmp_path
    assert run_of(tmp_path) == tmp_path
    assert run_of(tmp_path / "checkpoint-run") == tmp_path / "checkpoint-run"


@pytest.mark.parametrize(
    "name", ["optimizer.pt", "scheduler.pt", "adapter_model.safetensors", "optimizer.pt, cut off"]
)
def test_a_checkpoint_that_lacks_a_part_is_not_resumed_from(toy_run, tmp_path, name):
    checkpoint = shutil.copytree(toy_run / "checkpoint-2", tmp_path / "checkpoint-2")
    assert last_checkpoint(tmp_path, 4, 0) == checkpoint
    path = checkpoint / name.partition(",")[0]
    if "cut off" in name:
        path.write_bytes(path.read_bytes()[:100])
    else:
        path.unlink()
    with pytest.raises(DataError, match=f"{path.name} is (missing|damaged); remove .*checkpoint-2"):
        last_checkpoint(tmp_path, 4, 0)
