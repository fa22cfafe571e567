"""`train`, `check` and `evaluate` with rows that a program passes."""

import datasets
import pytest

import sentilora
from sentilora.config import load_config, read_config
from sentilora.data.sources import read_table
from sentilora.errors import DataError, UsageError


@pytest.fixture(scope="module")
def frame():
    return read_table("embedded", "train").select(["text", "label"]).slice(0, 80).to_pandas()


@pytest.fixture
def config(toy_base, tmp_path):
    overrides = ["training.max_steps=2", "training.eval_steps=1", "training.save_steps=1",
                 "data.num_train=48", "data.num_evaluation=16"]  # fmt: skip
    values = {"base.name": str(toy_base), "output_dir": str(tmp_path / "run")}
    return load_config("tiny", overrides=overrides, values=values)


def test_a_table_trains_as_its_file_does(frame, config, tmp_path, capsys):
    frame.to_csv(tmp_path / "rows.csv", index=False)
    from_file = config.with_values(
        {"data.train": str(tmp_path / "rows.csv"), "output_dir": str(tmp_path / "other")}
    )
    results = [sentilora.train(from_file), sentilora.train(config, data=frame)]
    assert results[0].metrics == results[1].metrics
    assert "16 rows of memory:DataFrame" in capsys.readouterr().err
    recorded = read_config(tmp_path / "run" / "sentilora.toml")
    assert recorded.data.train == "memory:DataFrame"

    test = datasets.Dataset.from_pandas(frame.tail(10), preserve_index=False)
    evaluation = sentilora.evaluate(tmp_path / "run", data=test)
    assert evaluation.adapter.num_rows == 10 and evaluation.baseline is None
    assert any("passed from memory" in note for note in evaluation.missing)
    both = datasets.DatasetDict(train=datasets.Dataset.from_pandas(frame), test=test)
    evaluation = sentilora.evaluate(tmp_path / "run", data=both)
    assert evaluation.baseline is not None
    with pytest.raises(DataError, match=r"passed from memory.*pass them again, or name a file"):
        sentilora.evaluate(tmp_path / "run", overrides={"data.test": "memory:DataFrame"})
    with pytest.raises(DataError, match="passed from memory"):
        sentilora.train(recorded, resume=True)
    # Such a name in the adapter's folder was said to be "as seen from the folder" of the training.
    named = recorded.with_values({"data.test": "memory:DataFrame"})
    named.save(tmp_path / "run" / "sentilora.toml")
    with pytest.raises(DataError, match="passed from memory") as error:
        sentilora.evaluate(tmp_path / "run")
    assert error.value.remedy == "name a file with data.test=FILE, or pass them again from Python"


def test_check_looks_at_a_table(frame, config):
    findings = sentilora.check(config, data={"train": frame, "dev": frame, "test": frame.head(5)})
    texts = {finding.name: finding.text for finding in findings}
    assert texts["train"].startswith("48 rows of memory:DataFrame")
    assert texts["evaluation"].startswith("16 rows of memory:DataFrame")
    assert texts["test"].startswith("5 rows of memory:DataFrame")


def test_a_split_of_another_name_is_refused(frame, config):
    with pytest.raises(UsageError, match="a split 'unsupervised'; name the splits train, valid"):
        sentilora.train(config, data={"train": frame, "unsupervised": frame})


def test_what_the_numbers_mean_is_printed(frame, config, capsys):
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["positive", "neg"])}
    )
    rows = {"text": frame["text"], "label": [0 if x == "positive" else 1 for x in frame["label"]]}
    data = datasets.Dataset.from_dict(rows, features=features)
    counts = frame["label"].value_counts()
    line = (
        f"train: 0 → positive ({counts['positive']} rows), 1 (neg) → negative "
        f"({counts['negative']} rows)"
    )
    assert line in [finding.text for finding in sentilora.check(config, data=data)]
    sentilora.train(config, data=data)
    assert f"labels of {line}" in capsys.readouterr().err
