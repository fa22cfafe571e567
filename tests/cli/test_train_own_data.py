"""`sentilora train my.csv`: one command on a file of the user's own, and what follows it.

From a trial as a new user, with 240 support messages in four classes.
"""

import json
import random
import shutil

import pandas as pd
import pytest
from commands import failed, predicted, run

from sentilora.config import read_config
from sentilora.data.held_out import hold_out
from sentilora.data.sources import load_rows
from sentilora.folders.run_folder import DataRecord
from sentilora.stages.from_config import columns_of

WORDS = ["parcel", "refund", "invoice", "login", "password", "screen", "courier", "blue", "late",
         "early", "broken", "price", "account", "reset", "credit", "card", "missing"]  # fmt: skip
LABELS = ["a", "b", "c", "d"]  # which the toy base gives some probability without training
FEW = ["training.max_steps=2", "training.eval_steps=1"]


def write(path, num=60, labels=LABELS, text="message", label="queue", seed=0):
    choose = random.Random(seed)
    texts = [f"{' '.join(choose.choices(WORDS, k=9))} {number}" for number in range(num)]
    rows = {text: texts, label: [labels[i % len(labels)] for i in range(num)]}
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def own(toy_base, tmp_path_factory):
    """(file, folder of its run, stdout, stderr)."""
    folder = tmp_path_factory.mktemp("own")
    source = write(folder / "my=file.csv")
    code, stdout, stderr = run(
        "train", source, f"base.name={toy_base}", *FEW, "--output-dir", folder / "run"
    )
    assert code == 0, stderr
    return source, folder / "run", stdout, stderr


def test_one_command_trains_on_a_file(own):
    source, folder, stdout, stderr = own
    assert f"train: 42 rows of {source}" in stderr and "evaluation: 6 rows" in stderr
    assert "warning: 6 evaluation rows can hardly show whether training has learned" in stderr
    for line in (
        "chosen to fit these data; any of them can be set instead:",
        "  data.text_column=message: there is no column 'text' among message, queue",
        "  data.label_column=queue: there is no column 'label' among message, queue",
        "  prompt.labels: 4 labels in column queue: a, b, c, d",
        "  data.test=train: there is no test split: about 12 of 60 rows, held out",
        "  data.num_evaluation=0: a tenth of the rows, held out: there are few",
        "  prompt.template: a neutral one, with Text and Label as headings",
    ):
        assert line in stderr, line
    config = read_config(folder / "sentilora.toml")
    assert config.prompt.labels == tuple(LABELS) and "film" not in config.prompt.instruction
    results = json.loads((folder / "train_results.json").read_text())
    assert results["chosen"]["prompt.labels"] == "4 labels in column queue: a, b, c, d"
    assert results["shortfall"] and results["remedies"] and results["learning_rates"] == {}
    assert "warning: this run has not learned the task: " in stdout and "next:" not in stdout


def test_the_held_out_rows_are_those_that_evaluate_measures(own, monkeypatch, tmp_path):
    source, folder, *_ = own
    config = read_config(folder / "sentilora.toml")
    rows = load_rows(str(source), "train", columns_of(config, config.prompt.labels))
    test = hold_out(rows, 0, config.data.shuffle_seed)[2]
    trained = {row for split in DataRecord.load(folder).splits.values() for row in split.rows}
    assert len(test) == 12 and not trained & set(test.hashes()) and len(trained) == 48

    monkeypatch.chdir(tmp_path)
    code, stdout, stderr = run("evaluate", "--adapter", folder, "--json", "--report", "report")
    assert code == 0, stderr
    result = json.loads(stdout)
    assert result["num_rows"] == 12 and result["baseline"] is not None
    table = pd.read_parquet(tmp_path / "report/predictions.parquet")
    assert sorted(table["text"]) == sorted(test.texts)


def test_a_relative_file_is_found_again_where_it_is_named(toy_base, tmp_path, monkeypatch):
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    source = write(tmp_path / "my.csv")
    assert run("train", "my.csv", f"base.name={toy_base}", *FEW, "--output-dir", "run")[0] == 0
    monkeypatch.chdir(tmp_path / "other")
    ask = ["evaluate", "--adapter", tmp_path / "run"]
    failed(
        3, "as seen from the folder that it was trained in); say where it is: data.train=…", *ask
    )
    code, stdout, _ = run(*ask, f"data.train={source}", "--json")
    assert code == 0 and json.loads(stdout)["num_rows"] == 12
    assert json.loads(stdout)["baseline"] is not None


def test_a_file_that_changed_has_no_held_out_rows_any_more(own, tmp_path):
    """Others would be held out of it, which the adapter may have been trained on."""
    source, folder, *_ = own
    more = shutil.copy(source, tmp_path / "more.csv")
    with open(more, "a", encoding="utf-8") as file:
        file.writelines(f"one more row {i},a\n" for i in range(20))
    said = failed(3, "more.csv has changed since training, and other test rows would be held out",
                  "evaluate", "--adapter", folder, f"data.train={more}")  # fmt: skip
    assert "(12 then, 16 now; hashes differ); restore it, or name test rows with" in said
    assert len(DataRecord.load(folder).test.rows) == 12


def test_other_test_rows_leave_the_baseline(own, tmp_path):
    source, folder, *_ = own
    other = write(tmp_path / "other.csv", 20, seed=3)
    for name in (f"data.test={other}", other):
        code, stdout, stderr = run("evaluate", "--adapter", folder, name, "--json")
        assert code == 0, stderr
        result = json.loads(stdout)
        assert result["num_rows"] == 20 and result["baseline"] is not None
    code, _, stderr = run("evaluate", "--adapter", folder, source)
    assert code == 0 and "the adapter has seen 42 among its training rows and 6 among" in stderr


def test_predict_takes_the_column_of_the_training(own, tmp_path):
    """It asked for --text-column, although the run records it."""
    _, folder, *_ = own
    source = write(tmp_path / "new.csv", 3)
    stdout, _ = predicted("--adapter", folder, "--input", source, "--json")
    assert len(stdout.splitlines()) == 3
    renamed = write(tmp_path / "renamed.csv", 3, text="text")
    _, stderr = predicted("--adapter", folder, "--input", renamed)
    assert "texts are taken from column text: there is no column message" in stderr
    two = pd.DataFrame({"Feedback": ["one two three"], "remark": ["four five six"], "id": ["7"]})
    two.to_csv(tmp_path / "two.csv", index=False)
    failed(3, "has no column 'message'; it has Feedback, remark, id; name the right",
           "predict", "--adapter", folder, "--input", tmp_path / "two.csv")  # fmt: skip
    two.drop(columns="remark").to_csv(tmp_path / "one.csv", index=False)
    predicted("--adapter", folder, "--input", tmp_path / "one.csv")
    failed(3, "has no column 'id2'", "predict", "--adapter", folder, "--input",
           tmp_path / "one.csv", "--text-column", "id2")  # fmt: skip
    predicted("--adapter", folder, "--input", renamed, "--text-column", "text")
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "sentilora.toml").write_text("[data]\n")
    _, stderr = predicted("--adapter", copy, "--input", renamed)
    assert "texts are taken from column 'text': " in stderr
    (copy / "sentilora.toml").unlink()
    predicted("--adapter", copy, "--input", renamed)


@pytest.mark.parametrize("whole", [False, True])
def test_a_run_on_own_data_is_resumed(toy_base, tmp_path, monkeypatch, whole):
    def stop(*args):
        raise OSError("no space left")

    command = ["train", write(tmp_path / "my.csv"), f"base.name={toy_base}", *FEW,
               "--output-dir", tmp_path / "run"]  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr("sentilora.stages.train.finish", stop)
        failed(1, "no space left", *command)
    recipe = (tmp_path / "run/sentilora.toml").read_bytes()
    again = command if whole else ["train", "--output-dir", tmp_path / "run"]
    code, _, stderr = run(*again, "--resume")
    assert code == 0, stderr
    assert "resuming after step " in stderr
    assert (tmp_path / "run/sentilora.toml").read_bytes() == recipe
    results = json.loads((tmp_path / "run/train_results.json").read_text())
    assert results["chosen"]["prompt.labels"] == "4 labels in column queue: a, b, c, d"


@pytest.mark.parametrize("series", [["--seeds", "2"], ["--sizes", "12,40"]])
def test_a_series_on_own_data_is_resumed(toy_base, tmp_path, series):
    command = ["train", write(tmp_path / "my.csv"), f"base.name={toy_base}", *FEW,
               *series, "--output-dir", tmp_path / "run"]  # fmt: skip
    code, _, stderr = run(*command)
    assert code == 0, stderr
    assert "prompt.labels: 4 labels in column queue" in stderr  # nothing said what was chosen
    last = tmp_path / "run" / ("seed-43" if "--seeds" in series else "size-40")
    assert read_config(last / "sentilora.toml").prompt.labels == tuple(LABELS)
    before = (last / "adapter_model.safetensors").read_bytes()
    for again in (command, ["train", *series, "--output-dir", tmp_path / "run"]):
        shutil.rmtree(last)
        code, _, stderr = run(*again, "--resume")
        assert code == 0, stderr
        assert stderr.count("already finished") == 1
        assert (last / "adapter_model.safetensors").read_bytes() == before
    choices = json.loads((tmp_path / "run/choices.json").read_text())
    assert choices["settings"]["prompt.labels"] == "4 labels in column queue: a, b, c, d"


def test_labels_are_named_with_commas(toy_base, tmp_path):
    source = write(tmp_path / "my.csv")
    ask = [source, f"base.name={toy_base}", "--output-dir", tmp_path / "run"]
    code, stdout, _ = run("check", *ask, "--labels", "d, c,b ,a,e")
    assert code == 0 and "prompt.labels" not in stdout
    assert stdout.index("label 'd'") < stdout.index("label 'a'") < stdout.index("label 'e'")
    assert "no training row is labeled e: the adapter does not learn it" in stdout
    failed(3, "queue is 'd', which is not one of the labels (a, b, c)", "train", *ask,
           "--labels", "a,b,c")  # fmt: skip
    failed(2, "prompt.labels needs at least 2 labels", "train", *ask, "--labels", "a")
    failed(2, "prompt.labels holds a label twice", "train", *ask, "--labels", "a,b,a")
    failed(2, "prompt.labels holds ''", "train", *ask, "--labels", "a,,b")


def test_check_says_what_train_chooses(own, toy_base, tmp_path):
    source, _, _, stderr = own
    code, stdout, _ = run("check", source, f"base.name={toy_base}", *FEW,
                          "--output-dir", tmp_path / "x")  # fmt: skip
    assert code == 0
    chosen = [
        line.split("chosen", 1)[1].strip() for line in stdout.splitlines() if "  chosen " in line
    ]
    lines = stderr.splitlines()
    start = lines.index("chosen to fit these data; any of them can be set instead:") + 1
    assert chosen == [line.strip() for line in lines[start : start + len(chosen)]]
    assert "### Text:" in stdout and "### Label:" in stdout


def test_two_sources_are_one_too_many(tmp_path):
    """The one named by its setting was dropped without a word."""
    source = write(tmp_path / "my.csv")
    other = write(tmp_path / "other.csv")
    for second in (other, f"data.train={other}"):
        failed(2, "my.csv and ", "train", source, second)
        assert "are both taken for the data" in failed(2, "other.csv", "check", source, second)
    failed(2, "there is no file or folder mycsv; name one", "train", "mycsv")
    failed(3, "there is no file or folder", "train", tmp_path / "none.csv")


@pytest.mark.parametrize("labels", [["x"], [f"id-{i}" for i in range(60)]])
def test_what_is_no_label_is_refused(tmp_path, labels):
    said = failed(3, "cannot hold the labels", "train", write(tmp_path / "my.csv", labels=labels))
    assert said.endswith(
        "name another column with --label-column, or "
        + ("add rows of other labels" if labels == ["x"] else "the labels with --labels")
    )
    source = write(tmp_path / "odd.csv", text="one", label="two")
    failed(3, "has neither a column 'text' nor 'label'; it has one, two; name the right ones with "
           "--text-column and --label-column: of two columns, one is enough",
           "train", source)  # fmt: skip
    pd.read_csv(source).rename(columns={"one": "body"}).assign(id=1).to_csv(source, index=False)
    failed(3, "has no column 'label'; it has body, two, id; name the right one with "
           "--label-column (the texts are in body)", "train", source)  # fmt: skip


def test_an_adapter_to_start_from_keeps_its_prompt(toy_run, toy_base, tmp_path):
    source = write(tmp_path / "my.csv", labels=["positive", "negative"])
    code, _, stderr = run("train", source, f"base.name={toy_base}", *FEW, "--adapter", toy_run,
                          "--output-dir", tmp_path / "run")  # fmt: skip
    assert code == 0, stderr
    assert "was trained with a different prompt" not in stderr
    before, after = (read_config(f / "sentilora.toml").prompt for f in (toy_run, tmp_path / "run"))
    assert before == after


def test_train_warns_of_test_rows_that_evaluate_refuses(toy_base, tmp_path):
    """`evaluate` refused them after the training: with IMDB's map, no file and no count."""
    folder = tmp_path / "split"
    folder.mkdir()
    write(folder / "train.csv")
    test = write(folder / "test.csv", 20)
    with open(test, "a", encoding="utf-8") as file:
        file.writelines(f"a request {i},gdpr\n" for i in range(2))
    code, _, stderr = run("train", folder, f"base.name={toy_base}", *FEW,
                          "--output-dir", tmp_path / "run")  # fmt: skip
    assert code == 0, stderr
    refusal = (f"{test}, row 20 (counted from 0): queue is 'gdpr', which is not one of the labels "
               "(a, b, c, d): 2 rows in all; map it, ")  # fmt: skip
    assert f"warning: evaluate will refuse the test rows: {refusal}" in stderr
    ask = ["evaluate", "--adapter", tmp_path / "run"]
    said = failed(3, refusal, *ask)
    assert "neg" not in said and "prompt.labels" not in said
    assert 'map it, data.label_map=\'{"gdpr" = "…"}\', or remove these rows: the labels' in said
    code, stdout, _ = run(*ask, 'data.label_map={gdpr="c"}', "--json")
    assert code == 0 and json.loads(stdout)["num_rows"] == 22


def test_a_file_named_imdb_with_bare_numbers_says_what_to_type(tmp_path):
    """Its name makes it the film recipe's; the hint left the words to the user."""
    source = write(tmp_path / "imdb.csv", labels=[0, 1], text="text", label="label")
    typed = 'data.label_map={"0" = "negative", "1" = "positive"}'
    quoted = typed.replace("={", "='{") + "'"
    failed(3, f"{quoted} if the numbers are IMDB's", "train", source)
    few = ["data.num_train=20", "data.num_evaluation=10", "training.optim=nonsense"]
    said = failed(2, "nonsense", "train", source, typed, *few, "--output-dir", tmp_path / "run")
    assert "label" not in said


def test_check_shows_ten_labels_of_many_and_long_ones_apart(toy_base, tmp_path):
    """Sixty lines of tokens; `label "complaint because …"tokens […]` without a space."""
    labels = [f"a rather long label {i:02}" for i in range(15)]
    source = write(tmp_path / "my.csv", 90, labels)
    _, stdout, _ = run("check", source, f"base.name={toy_base}", "--output-dir", tmp_path / "run")
    lines = [line for line in stdout.splitlines() if line.startswith("  label '")]
    assert len(lines) == 10 and lines[0].startswith("  label 'a rather long label 00' tokens [")
    assert "5 more; the longest of all has " in stdout
