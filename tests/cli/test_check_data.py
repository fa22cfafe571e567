"""What `check` says of training and evaluation rows, and `train` warns of."""

import csv
import random

import pytest
from commands import run

from sentilora.data.rows import Rows
from sentilora.stages import check_data
from sentilora.stages.check_data import affordable, figure_to_beat, look_at_evaluation

LABELS = 'prompt.labels=["order","product","billing","account"]'
WORDS = {
    "order": [
        "parcel",
        "courier",
        "shipping",
        "arrive",
        "late",
        "track",
        "depot",
        "delivery",
        "address",
        "street",
    ],
    "product": [
        "broken",
        "screen",
        "cracked",
        "button",
        "hot",
        "noise",
        "battery",
        "leg",
        "paint",
        "lid",
    ],
    "billing": [
        "invoice",
        "refund",
        "charged",
        "twice",
        "tax",
        "card",
        "payment",
        "price",
        "receipt",
        "bank",
    ],
    "account": [
        "login",
        "password",
        "mail",
        "name",
        "profile",
        "delete",
        "change",
        "phone",
        "code",
        "locked",
    ],
}


def written(path, rows):
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    return path


@pytest.fixture
def ask(tmp_path):
    """The options for a file of messages, with 100 training and 40 evaluation rows."""

    def options(rows, *others):
        path = written(tmp_path / "rows.csv", rows)
        return [f"data.train={path}", f"data.test={path}", "data.num_train=100", LABELS,
                "data.num_evaluation=40", "--output-dir", tmp_path / "run", *others]  # fmt: skip

    return options


def messages(num_rows=160):
    """Messages of words that tell their label, in ever another order."""
    draw = random.Random(3)
    labels = [("order", "product", "billing", "account", "order")[i % 5] for i in range(num_rows)]
    return [("The " + " ".join(draw.sample(WORDS[label], 6)), label) for label in labels]


def templates(num_rows=160):
    draw, names = random.Random(4), ["Anna", "Ben", "Carla", "David", "Emma", "Felix"]
    forms = {
        "order": "Where is my order {}?",
        "product": "My phone broke after {} days, please send a new one.",
        "billing": "I was charged twice for invoice {}.",
        "account": "{} here, I cannot log in to my account.",
    }
    rows = []
    for i in range(num_rows):
        label = list(forms)[i % 4]
        filling = draw.choice(names) if label == "account" else draw.randint(1, 99_999)
        rows.append((f"{forms[label].format(filling)} Ticket {i}", label))
    return rows


def lines_of(stdout):
    """{name: (mark, text)} of a check, the last line of each name."""
    return {line[2:22].strip(): (line[0], line[22:]) for line in stdout.splitlines()}


def test_check_prints_the_majority_and_the_figure_to_beat(ask):
    code, stdout, _ = run("check", *ask(messages()))
    lines = lines_of(stdout)
    assert code == 0
    mark, text = lines["majority"]
    assert mark == " " and text.startswith("always answering order: ")
    assert text.endswith("% of the 40 evaluation rows")
    figure, verdict = [line for line in stdout.splitlines() if line[2:].startswith("to beat")]
    assert figure[22:].startswith("TF-IDF + logistic regression trained on the 100 train")
    assert "reaches 100.0% (91.2% – 100.0%) of the 40 evaluation rows: the figure to beat" in figure
    assert verdict.startswith("!") and "TF-IDF already suffices on these rows" in verdict
    assert "templates" not in lines


def test_the_figure_is_that_of_evaluate(ask):
    """The same baseline: here on the evaluation rows, in `evaluate` on the test rows."""
    import numpy as np

    from sentilora.metrics import tfidf_baseline

    draw = random.Random(5)
    words = [word for some in WORDS.values() for word in some]
    rows = [(" ".join(draw.sample(words, 5)), draw.choice([*WORDS])) for _ in range(150)]
    train = Rows("x", *map(list, zip(*rows[:100], strict=True)))
    evaluation = Rows("x", *map(list, zip(*rows[100:], strict=True)))
    names = sorted(WORDS)
    answers = tfidf_baseline(
        train.texts, [names.index(x) for x in train.labels], evaluation.texts, 4
    ).argmax(1)
    share = np.mean(
        [names[a] == label for a, label in zip(answers, evaluation.labels, strict=True)]
    )
    assert f"reaches {share:.1%} (" in figure_to_beat(train, evaluation)[1]


def test_what_would_take_minutes_is_cut_and_said(monkeypatch):
    rows = Rows("x", [f"{text} {i}" for i, (text, _) in enumerate(messages())],
                [label for _, label in messages()])  # fmt: skip
    assert affordable(rows) is rows
    for name, limit in (("MAX_ROWS", 40), ("MAX_ROWS_TIMES_LABELS", 160), ("MAX_CHARACTERS", 1800)):
        with monkeypatch.context() as patch:
            patch.setattr(check_data, name, limit)
            part = affordable(rows)
            assert 30 <= len(part) <= 45 and set(part.labels) == set(rows.labels), name
            _, text = figure_to_beat(rows, rows)
            assert f"trained on {len(part)} of the 160 training rows" in text
            assert text.endswith("the figure to beat, at least: all rows would take longer than a "
                                 "check should")  # fmt: skip


def test_texts_without_a_word_do_not_break_the_check(ask):
    """`TfidfVectorizer` refuses them; also `evaluate` ended in a traceback."""
    rows = [("!?*#"[i % 4] * (i + 1), list(WORDS)[i % 4]) for i in range(160)]
    code, stdout, _ = run("check", *ask(rows))
    assert code == 0 and "the figure to beat" in lines_of(stdout)["to beat"][1]


def test_without_evaluation_rows_there_is_no_figure():
    code, stdout, _ = run("check", "data.train=none.csv")
    assert code == 3 and "to beat" not in stdout and "majority" not in stdout


def test_check_and_train_name_shared_templates(ask, toy_base):
    base = f"base.name={toy_base}"
    steps = [f"training.{name}=1" for name in ("max_steps", "eval_steps", "save_steps")]
    said = "of the evaluation rows are a training row but for a few words, such as '"
    code, stdout, _ = run("check", *ask(templates(), base))
    mark, text = lines_of(stdout)["templates"]
    assert code == 0 and mark == "!" and said in text and "measures memory" in text
    code, _, stderr = run("train", *ask(templates(), base, *steps))
    assert code == 0 and f"% {said}" in stderr and "warning: 100.0% of the" in stderr


def test_templates_are_not_seen_where_there_are_none(ask, toy_base):
    steps = [f"training.{name}=1" for name in ("max_steps", "eval_steps", "save_steps")]
    code, _, stderr = run("train", *ask(messages(), f"base.name={toy_base}", *steps))
    assert code == 0 and "but for a few words" not in stderr


KNOWS = "the embedded base knows English film reviews only"


def test_check_and_train_say_what_the_embedded_base_knows(ask):
    code, stdout, _ = run("check", *ask(messages()))
    notes = [line for line in stdout.splitlines() if KNOWS in line]
    assert code == 0 and len(notes) == 1 and notes[0].startswith("! base ")
    assert "take the preset smollm2-135m" in notes[0] and "tools/smollm2.py" in notes[0]
    assert "mistral-7b on a GPU" in notes[0] and "look English" not in notes[0]
    few = ["data.num_evaluation=4", "data.num_train=8", "training.optim=nonsense"]  # ends early
    code, _, stderr = run("train", *ask(messages(), *few))
    assert code == 2 and stderr.count(f"warning: {KNOWS}. For other texts TF-IDF may") == 1


def test_other_languages_are_named(ask):
    rows = [("Wo bleibt mein Paket, und warum antwortet niemand auf meine Mails?", "order")] * 160
    rows = [(f"{text} {i}", list(WORDS)[i % 4]) for i, (text, _) in enumerate(rows)]
    _, stdout, _ = run("check", *ask(rows))
    assert f"{KNOWS}, and these texts do not look English. For other" in stdout


def test_film_reviews_and_other_bases_are_not_warned_about(ask, toy_base, tmp_path):
    assert KNOWS not in run("check")[1]
    assert KNOWS not in run("check", *ask(messages(), f"base.name={toy_base}"))[1]
    imdb = written(tmp_path / "imdb.csv", messages())
    assert KNOWS not in run("check", *ask(messages(), f"data.train={imdb}"))[1]


@pytest.mark.parametrize("labels", [["same"], [f"free text number {i}" for i in range(40)]])
def test_after_a_problem_of_the_data_nothing_speaks_of_other_data(tmp_path, labels):
    """It went on with the reviews that ship, the tokens of positive/negative and a false ✗."""
    rows = [(f"a message {i}", labels[i % len(labels)]) for i in range(40)]
    code, stdout, _ = run("check", written(tmp_path / "own.csv", rows), "--output-dir",
                          tmp_path / "run")  # fmt: skip
    assert code == 3 and stdout.count("✗") == 1 and "✗ data" in stdout
    for word in ("positive", "embedded", "reviews that ship", "special tokens"):
        assert word not in stdout, word
    assert "none, the base is local" in stdout and "cpu, computing in" in stdout


@pytest.mark.parametrize("form", ["TCK-{}", "{}", "2024-05-01 {}"])
def test_texts_that_are_ids_are_named_with_the_columns_of_words(tmp_path, form):
    """`train` blamed the language and advised a larger model."""
    path = tmp_path / "ids.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        rows = [(form.format(10_000 + i), *row) for i, row in enumerate(messages(80))]
        csv.writer(file).writerows([("text", "remark", "label"), *rows])
    said = "the texts in column text look like ids or numbers, such as "
    code, stdout, _ = run("check", path, "--output-dir", tmp_path / "run")
    mark, text = lines_of(stdout)["texts"]
    assert code == 0 and mark == "!" and said in text and "longer texts are in remark" in text
    assert "name another column with data.text_column" in text and KNOWS not in stdout
    code, _, stderr = run("train", path, "training.optim=nonsense", "--output-dir",
                          tmp_path / "run")  # fmt: skip
    assert code == 2 and f"warning: {said}" in stderr and KNOWS not in stderr


def test_check_says_when_word_counts_learn_nothing(ask):
    rows = [(f"the same words as ever {i}", list(WORDS)[i % 5 % 4]) for i in range(160)]
    code, stdout, _ = run("check", *ask(rows))
    mark, text = lines_of(stdout)["to beat"]
    assert code == 0 and mark == "!" and "TF-IDF is no better than always answering order" in text


def test_of_labels_equally_frequent_check_and_train_name_the_first(tmp_path):
    """`check` named praise, `train` complaint."""
    import numpy as np

    from sentilora.config import load_config
    from sentilora.metrics import measure
    from sentilora.training.shortfall import shortfall_of

    rows = Rows("x", ["one text here", "two texts here"] * 2, ["praise", "complaint"] * 2)
    labels = ("complaint", "praise")
    config = load_config("tiny", values={"prompt.labels": list(labels), "data.train": "x.csv",
                                         "base.name": "x/y"})  # fmt: skip
    found = list(look_at_evaluation(config, {"train": rows, "evaluation": rows}, {}))
    assert found[0].text.startswith("always answering complaint: 50.0%")
    reason = shortfall_of(measure(np.eye(2)[[0, 1, 1, 1]] * 0.9 + 0.05, [1, 0, 1, 0]), labels)
    assert reason.endswith("of always answering 'complaint'")


def test_a_notice_about_a_file_is_printed_once(tmp_path):
    """`semicolon.csv: its separator is ';'` came three times."""
    path = tmp_path / "semicolon.csv"
    path.write_text("text;label\n" + "".join(f"{t};{x}\n" for t, x in messages(40)))
    command = ["check", path, "training.optim=nonsense", "--output-dir", tmp_path / "run"]
    for verb in ("check", "train", "check"):
        _, _, stderr = run(verb, *command[1:])
        assert stderr.count("semicolon.csv: its separator is ';'") == 1, verb
