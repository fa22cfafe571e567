"""data.py: every kind of source, in order and unchanged, and what is wrong with one said by row."""

import json
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentilora import data
from sentilora.data import (
    Columns,
    Rows,
    carve,
    label_weights,
    load_rows,
    load_splits,
    load_test,
    look_over,
    looks_like_hub_id,
    normalised,
    read_table,
    require_every_label,
    sample,
    shuffled,
)
from sentilora.errors import DataError

MAP = {"0": "negative", "1": "positive", "neg": "negative", "pos": "positive"}
COLUMNS = Columns(label_map=MAP, labels=("positive", "negative"))
TEXTS = [
    "Good, really good.",
    'She said "no",\nthen yes.',
    "NA",
    "None",
    "null",
    "123",
    "007",
    "nan",
    "true",
    "2024-01-01",
    "  spaces kept  ",
    "Schön 🎬\u2028漢字",
    "'quoted'",
    "back\\slash",
]
LABELS = ["positive", "negative"] * 7


def write(path, texts=TEXTS, labels=LABELS, text="text", label="label", **more):
    """A file of the kind that its name tells."""
    frame = pd.DataFrame({text: texts, label: labels, **more})
    path.parent.mkdir(parents=True, exist_ok=True)
    match path.suffix:
        case ".csv":
            frame.to_csv(path, index=False)
        case ".tsv":
            frame.to_csv(path, index=False, sep="\t")
        case ".parquet":
            frame.to_parquet(path, index=False)
        case ".jsonl" | ".json":
            records = frame.to_dict("records")
            lines = [json.dumps(record, ensure_ascii=False) for record in records]
            joined = "\n".join(lines) if path.suffix == ".jsonl" else f"[{','.join(lines)}]"
            path.write_text(joined, encoding="utf-8")
    return str(path)


def write_reviews(folder, label, texts, first=0):
    (folder / label).mkdir(parents=True)
    for number, text in enumerate(texts, first):
        (folder / label / f"{number}_7.txt").write_text(text, encoding="utf-8")


def rows_of(num_rows, labels=("positive", "negative"), source="made up"):
    return Rows(source, [f"text {i}" for i in range(num_rows)],
                [labels[i % len(labels)] for i in range(num_rows)])  # fmt: skip


def refused(said, source, split="train", columns=COLUMNS):
    with pytest.raises(DataError, match=said) as error:
        load_rows(str(source), split, columns)
    assert "\n" not in str(error.value)
    return str(error.value)


# --- kinds of sources


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "json", "parquet"])
def test_every_file_format_gives_the_rows_as_they_are(tmp_path, suffix):
    rows = load_rows(write(tmp_path / f"my reviews.{suffix}"), "train", COLUMNS)
    assert (rows.texts, rows.labels) == (TEXTS, LABELS)
    assert len(rows) == 14 and rows.source.endswith(suffix)


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "json", "parquet"])
def test_other_columns_can_be_named(tmp_path, suffix):
    path = write(tmp_path / f"x.{suffix}", text="review", label="sentiment", text2=["x"] * 14)
    columns = Columns("review", "sentiment", MAP, ("positive", "negative"))
    assert load_rows(path, "test", columns).texts == TEXTS
    refused(
        "has no column 'text'; it has review, sentiment, text2. Name it with --text-column", path
    )
    refused(
        "no column 'label'; it has review, .*--label-column",
        path,
        columns=Columns("review", "label"),
    )


@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0")).filter(
            lambda text: data.fault_of(text) is None
        ),
        min_size=1,
        max_size=8,
    ),
    st.sampled_from(["csv", "tsv", "jsonl", "json", "parquet"]),
)
def test_any_text_comes_back_unchanged(tmp_path_factory, texts, suffix):
    path = tmp_path_factory.getbasetemp() / f"any.{suffix}"
    labels = (["positive", "negative"] * len(texts))[: len(texts)]
    assert load_rows(write(path, texts, labels), "train", COLUMNS).texts == texts


def test_upper_case_suffixes_and_byte_order_marks_are_read(tmp_path):
    for name, content in (
        ("a.CSV", "text,label\nGood.,pos\n"),
        ("b.JSONL", '{"text": "Good.", "label": "pos"}\n\n'),
        ("c.tsv", "text\tlabel\r\nGood.\tpos\r\n"),
    ):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + content.encode())
        assert load_rows(str(tmp_path / name), "train", COLUMNS) == Rows(
            str(tmp_path / name), ["Good."], ["positive"]
        )


def test_cells_that_look_like_numbers_stay_as_they_are_written(tmp_path):
    (tmp_path / "x.csv").write_text("text,label,id\n007,1,1e3\n1.50,0,08\n")
    assert load_rows(str(tmp_path / "x.csv"), "train", COLUMNS).texts == ["007", "1.50"]
    assert read_table(str(tmp_path / "x.csv"), "test", "text")["id"].tolist() == ["1e3", "08"]


def test_quoted_newlines_and_commas_stay_in_a_csv(tmp_path):
    (tmp_path / "x.csv").write_text('label,text\npos,"One, two.\n\n""Three"" four."\nneg,Five.\n')
    rows = load_rows(str(tmp_path / "x.csv"), "train", COLUMNS)
    assert rows.texts == ['One, two.\n\n"Three" four.', "Five."]


def test_a_folder_with_named_files_has_splits(tmp_path):
    names = {"train": "train.csv", "test": "testing.jsonl", "validation": "dev.parquet"}
    for number, (split, name) in enumerate(names.items()):
        write(tmp_path / name, [f"{split} text"], ["positive"], number=[number])
    for split in names:
        assert load_rows(str(tmp_path), split, COLUMNS).texts == [f"{split} text"]
    (tmp_path / "dev.parquet").unlink()
    refused(
        r"has no validation data; expected validation.csv, .*; it holds testing.jsonl, train.csv",
        tmp_path,
        "validation",
    )


def test_the_acl_imdb_folder_is_read_in_the_order_of_its_numbers(tmp_path):
    for split in ("train", "test"):
        write_reviews(tmp_path / split, "pos", [f"{split} pos {i}" for i in range(12)])
        write_reviews(tmp_path / split, "neg", [f"{split} neg {i}" for i in range(12)])
        (tmp_path / split / "urls_pos.txt").write_text("http://x")
    write_reviews(tmp_path / "train", "unsup", ["no label"])
    for split in ("train", "test"):
        rows = load_rows(str(tmp_path), split, COLUMNS)
        order = [f"{split} {label} {i}" for label in ("neg", "pos") for i in range(12)]
        assert rows.texts == order  # 2 stands before 10
        assert Counter(rows.labels) == {"negative": 12, "positive": 12}
    assert len(read_table(str(tmp_path), "train", "text")) == 24


def test_an_acl_imdb_review_that_is_no_utf_8_is_named(tmp_path):
    write_reviews(tmp_path / "train", "pos", ["fine"])
    (tmp_path / "train" / "pos" / "3_1.txt").write_bytes(b"caf\xe9")
    refused(r"cannot read .*3_1\.txt: .*0xe9", tmp_path)


def test_the_embedded_reviews_are_at_least_400_and_100():
    train, test = (load_rows("embedded", split, COLUMNS) for split in ("train", "test"))
    assert len(train) >= 400 and len(test) == 100
    assert set(Counter(train.labels).values()) == {len(train) // 2}
    assert not set(train.texts) & set(test.texts)


def test_a_home_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "x.csv")
    assert len(load_rows("~/x.csv", "train", COLUMNS)) == 14


# --- labels


@pytest.mark.parametrize(
    "stored",
    [
        [1, 0],
        [1.0, 0.0],
        ["1", "0"],
        ["1.0", "0.0"],
        ["pos", "neg"],
        ["positive", "negative"],
        np.array([1, 0], dtype=np.int8),
        pd.array([1, 0], dtype="Int64"),
        pd.Categorical(["pos", "neg"]),
    ],
    ids=str,
)
@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_labels_may_be_numbers_or_words(tmp_path, stored, suffix):
    path = write(tmp_path / f"x.{suffix}", ["good", "bad"], pd.Series(stored).tolist()
                 if suffix == "jsonl" else stored)  # fmt: skip
    assert load_rows(path, "train", COLUMNS).labels == ["positive", "negative"]


def test_a_label_map_may_say_anything(tmp_path):
    path = write(tmp_path / "x.jsonl", ["a", "b", "c"], [True, "👍", "5 stars"])
    columns = Columns(label_map={"True": "sì", "👍": "sì", "5 stars": "no"}, labels=("sì", "no"))
    assert load_rows(path, "train", columns).labels == ["sì", "sì", "no"]


def test_labels_that_are_numbers_are_not_led_astray_by_the_default_map(tmp_path):
    labels = tuple(map(str, range(1, 11)))
    path = write(tmp_path / "x.csv", ["a", "b", "c"], [1, 10, 2])
    columns = Columns(label_map=MAP, labels=labels)
    assert load_rows(path, "train", columns).labels == ["1", "10", "2"]
    swapped = Columns(label_map={"0": "1", "1": "0"}, labels=("0", "1"))
    path = write(tmp_path / "y.csv", ["a", "b"], [0, 1])
    assert load_rows(path, "train", swapped).labels == ["1", "0"]


# --- what is wrong with a source


def test_a_source_that_is_not_there_is_refused(tmp_path):
    refused("there is no file or folder .*nowhere.csv", tmp_path / "nowhere.csv")
    refused("there is no file or folder ./nowhere", "./nowhere")
    refused("there is no file or folder ~nobody-of-that-name/x", "~nobody-of-that-name/x")
    refused("there is no file or folder a/b/c", "a/b/c")
    refused("there is no file or folder", "long" * 2000 + ".csv")
    refused("there is no file or folder", "zero\0byte")
    (tmp_path / "empty").mkdir()
    refused("has no train data; expected train.csv, .*; it holds nothing", tmp_path / "empty")


def test_a_hub_out_of_reach_is_said_at_once(monkeypatch):
    said = refused(
        "is no local file or folder, and the hub .* is not reachable", "stanfordnlp/imdb"
    )
    assert "data.train=<folder or file> reads local data" in said and "HF_HUB_OFFLINE=1" in said
    refused("'reviews' is no local file or folder", "reviews")


def test_what_looks_like_a_hub_id():
    for name in ("stanfordnlp/imdb", "imdb", "mistralai/Mistral-7B-v0.1", "a_b/c-d.e"):
        assert looks_like_hub_id(name), name
    for name in ("./imdb", "/imdb", "~/imdb", "a/b/c", "x.csv", "a/x.parquet", "a b", "..", ""):
        assert not looks_like_hub_id(name), name


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.txt", b"words", "cannot tell the format of x.txt; use one of .csv, .tsv, .jsonl"),
        ("x.csv", b"", "cannot read .*x.csv: No columns"),
        ("x.csv", b"text,label\n", "x.csv has no rows"),
        (
            "x.csv",
            b"text,label\nGood, really good,pos\n",
            "more cells than its header.*double quotes",
        ),
        ("x.csv", b"text,label\nGood.,pos\nFine, good,neg\n", "cannot read .*line 3"),
        ("x.csv", b'text,label\n"Good.,pos\n', "cannot read"),
        ("x.csv", b"text,label\nGood.\n", "row 1: label is missing; fill it or drop the row"),
        ("x.csv", b"text,label\nGood.,pos\n,neg\n", "row 2: text is missing; mend it or drop"),
        ("x.csv", b'text,label\n" ",neg\n', "row 1: text is empty"),
        ("x.csv", b"text,label\n<br />,neg\n", "row 1: text is empty"),
        (
            "x.csv",
            b"text,label\nGood.,pos\nBad.,meh\n",
            "row 2: label is 'meh', which is no "
            r"label of the prompt \(positive, negative\).*0 = negative, 1 = positive.*extend data",
        ),
        ("x.csv", b"text,label\nGood.,pos\nBad.,\n", "row 2: label is missing"),
        (
            "x.csv",
            b"text,label\n" + b"Good.,pos\n" * 3000 + b"caf\xe9,pos\n",
            "x.csv is not valid UTF-8: byte 0xe9 in line 3002; save it as UTF-8",
        ),
        (
            "x.csv",
            "text,label\nGood.,pos\n".encode("utf-16"),
            "not valid UTF-8: byte 0xff in line 1",
        ),
        ("x.tsv", b"text\tlabel\nGood\tyes\tpos\n", "more cells than its header"),
        ("x.jsonl", b"", "no column 'text'; it has none at all"),
        ("x.jsonl", b'{"text": "a", "label": 1}\n{"text": "b"\n', "cannot read .*line 2: Exp"),
        ("x.jsonl", b'{"text": "a", "label": 1}\n["b", 0]\n', r"line 2 is \['b', 0\]; an object"),
        ("x.jsonl", b'{"text": null, "label": 1}\n', "row 1: text is missing"),
        ("x.jsonl", b'{"text": 5, "label": 1}\n', "row 1: text is 5, not a text"),
        ("x.jsonl", b'{"text": ["a"], "label": 1}\n', r"row 1: text is \['a'\], not a text"),
        ("x.jsonl", b'{"text": "a", "label": 1}\n{"text": "b"}\n', "row 2: label is missing"),
        ("x.jsonl", b'{"text": "a", "label": NaN}\n', "row 1: label is missing"),
        (
            "x.jsonl",
            b'{"text": "a", "label": [1]}\n',
            r"x.jsonl, row 1: the label is \[1\]; one value",
        ),
        ("x.jsonl", b'{"text": "a", "label": 2}\n', "row 1: label is '2', which is no label"),
        ("x.jsonl", b'{"text": "a\\ud83d", "label": 1}\n', "row 1: text is not valid Unicode"),
        (
            "x.jsonl",
            b'{"text": "caf\xe9", "label": 1}\n',
            "x.jsonl is not valid UTF-8: byte 0xe9 in line 1",
        ),
        ("x.json", b'{"text": "a", "label": 1}', "cannot read .*a list of objects is expected"),
        ("x.json", b"[1, 2]", "item 1 is 1; an object is expected"),
        ("x.json", b"5", "cannot read .*a list of objects"),
        ("x.parquet", b"PAR1 and then nothing", "cannot read .*x.parquet"),
        ("x.parquet", b"", "cannot read .*x.parquet"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_by_place(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    assert name in refused(said, tmp_path / name)


def test_missing_values_of_every_kind_are_seen(tmp_path):
    for number, missing in enumerate((None, float("nan"), pd.NA, pd.NaT)):
        frame = pd.DataFrame({"text": ["a", "b"], "label": pd.Series(["pos", missing])})
        frame.astype({"label": "string"}).to_parquet(tmp_path / f"{number}.parquet")
        refused("row 2: label is missing", tmp_path / f"{number}.parquet")
    frame = pd.DataFrame({"text": pd.array(["a", pd.NA], "string"), "label": [0, 1]})
    frame.to_parquet(tmp_path / "text.parquet")
    refused("row 2: text is missing", tmp_path / "text.parquet")
    numbers = pd.DataFrame({"text": ["a", "b"], "label": pd.array([1, pd.NA], "Int64")})
    numbers.to_parquet(tmp_path / "numbers.parquet")
    refused("row 2: label is missing", tmp_path / "numbers.parquet")


def test_a_folder_in_the_place_of_a_file_or_one_that_may_not_be_read(tmp_path, monkeypatch):
    path = tmp_path / "x.parquet"
    write(path)

    def denied(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(pd, "read_parquet", denied)
    refused("cannot read .*x.parquet: .*Permission denied", path)


# --- choosing


@given(st.integers(1, 500), st.integers(0, 2**32 - 1))
def test_the_shuffle_is_the_one_of_datasets(num_rows, seed):
    import datasets

    table = datasets.Dataset.from_dict({"number": list(range(num_rows))})
    assert shuffled(num_rows, seed) == table.shuffle(seed)["number"][:]


def test_a_sample_is_the_beginning_of_the_shuffle():
    rows = rows_of(50)
    assert sample(rows, 8, 42, "data.num_test").texts == [
        rows.texts[i] for i in shuffled(50, 42)[:8]
    ]
    assert sorted(sample(rows, 0, 42, "data.num_test").texts) == sorted(rows.texts)
    with pytest.raises(DataError, match=r"data\.num_test asks for 51 rows, made up has 50; set "
                       r"data\.num_test=50 or less \(0 takes all\)"):  # fmt: skip
        sample(rows, 51, 42, "data.num_test")


def test_evaluation_rows_are_the_next_of_the_shuffle():
    rows = rows_of(50)
    train, held_out = carve(rows, 20, 10, seed=42)
    order = [rows.texts[i] for i in shuffled(50, 42)]
    assert (train.texts, held_out.texts) == (order[:20], order[20:30])


@given(st.lists(st.integers(0, 9), min_size=8, max_size=60), st.integers(0, 99), st.data())
def test_no_evaluation_text_is_a_training_text(numbers, seed, data):
    texts = [data.draw(st.sampled_from([f"Text {n}", f"text  {n}<br />", f" TEXT {n}"]))
             for n in numbers]  # fmt: skip
    rows = Rows("made up", texts, ["positive"] * len(texts))
    num_train = data.draw(st.integers(1, len(texts)))
    try:
        train, held_out = carve(rows, num_train, 0, seed)
    except DataError:
        taken = {normalised(texts[i]) for i in shuffled(len(texts), seed)[:num_train]}
        assert all(normalised(text) in taken for text in texts)
        return
    assert train.texts == [texts[i] for i in shuffled(len(texts), seed)[:num_train]]
    trained = {normalised(text) for text in train.texts}
    assert not trained & {normalised(text) for text in held_out.texts}
    left_out = len(texts) - len(train) - len(held_out)
    rest = [texts[i] for i in shuffled(len(texts), seed)[num_train:]]
    assert left_out == sum(normalised(text) in trained for text in rest)


@pytest.mark.parametrize(
    ("num_train", "num_evaluation"), [(60, 5), (45, 7), (50, 0), (0, 50), (0, 60), (2000, 400)]
)
@pytest.mark.parametrize("balance", ["none", "sample"])
def test_more_rows_than_there_are_is_refused(num_train, num_evaluation, balance):
    with pytest.raises(DataError, match=rf"made up has .*50|data\.num_train={num_train} and .*50"):
        carve(rows_of(50), num_train, num_evaluation, 1, balance)


def test_zero_takes_all_but_the_evaluation_rows():
    train, held_out = carve(rows_of(50), 0, 0, seed=1)
    assert (len(train), len(held_out)) == (40, 10)
    train, held_out = carve(rows_of(50), 0, 15, seed=1)
    assert (len(train), len(held_out)) == (35, 15)


def test_a_balanced_sample_has_as_many_of_each_label():
    rows = rows_of(120, ("positive", "positive", "positive", "negative"))
    train, held_out = carve(rows, 40, 20, 42, balance="sample")
    assert Counter(train.labels) == {"positive": 20, "negative": 20}
    assert len(held_out) == 20 and not set(train.texts) & set(held_out.texts)
    with pytest.raises(DataError, match="needs 50 rows of each label, made up has 30 of 'negative'"
                       r"; lower data\.num_train to 60 or use data\.balance=weights"):  # fmt: skip
        carve(rows, 100, 10, 42, balance="sample")
    train, held_out = carve(rows, 0, 20, 42, balance="sample")
    assert len(set(Counter(train.labels).values())) == 1 and 40 <= len(train) <= 60


def test_a_balanced_sample_of_a_source_of_its_own_takes_the_rarest_label_whole(tmp_path):
    texts = [f"text {i}" for i in range(40)]
    path = write(tmp_path / "x.csv", texts, ["pos", "pos", "pos", "neg"] * 10)
    train, _ = load_splits(
        train=path, evaluation="test", test="embedded", columns=COLUMNS, num_train=0,
        num_evaluation=10, seed=1, balance="sample",
    )  # fmt: skip
    assert Counter(train.labels) == {"positive": 10, "negative": 10}


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=99))
def test_weights_make_every_label_weigh_the_same(labels):
    weights = label_weights(labels)
    sums = Counter()
    for label in labels:
        sums[label] += weights[label]
    assert list(sums.values()) == pytest.approx([len(labels) / len(sums)] * len(sums))


# --- splits as the configuration asks


def splits(**changes):
    asked = {"train": "embedded", "evaluation": "train", "test": "embedded", "columns": COLUMNS,
             "num_train": 320, "num_evaluation": 80, "seed": 42, "balance": "none"}  # fmt: skip
    return load_splits(**{**asked, **changes})


def test_the_embedded_default_is_320_and_80():
    train, held_out = splits()
    assert (len(train), len(held_out)) == (320, 80)
    assert not set(train.texts) & set(held_out.texts)


def test_evaluation_may_come_from_the_test_rows_or_a_source_of_its_own(tmp_path):
    _, held_out = splits(evaluation="test", num_evaluation=0)
    assert sorted(held_out.texts) == sorted(load_rows("embedded", "test", COLUMNS).texts)
    path = write(tmp_path / "validation.csv")
    for source in (path, str(tmp_path)):
        _, held_out = splits(evaluation=source, num_evaluation=5)
        assert held_out.texts == [TEXTS[i] for i in shuffled(14, 42)[:5]]
    with pytest.raises(DataError, match=r"data\.num_evaluation asks for 99 rows"):
        splits(evaluation=path, num_evaluation=99)
    with pytest.raises(DataError, match=r"data\.num_train asks for 500 rows"):
        splits(evaluation="test", num_train=500)


def test_one_class_only_is_refused_for_training(tmp_path):
    path = write(tmp_path / "x.csv", labels=["pos"] * 14)
    with pytest.raises(DataError, match=r"all 8 training rows of .*x\.csv are 'positive'; training "
                       r"needs rows of at least two of positive, negative"):  # fmt: skip
        splits(train=path, num_train=8, num_evaluation=4)
    require_every_label(rows_of(2), ("positive", "negative"))


def test_test_rows_are_all_in_their_order_or_the_first_of_the_shuffle():
    every = load_test("embedded", COLUMNS, 0, 42)
    assert every.texts == load_rows("embedded", "test", COLUMNS).texts
    some = load_test("embedded", COLUMNS, 7, 42)
    assert some.texts == [every.texts[i] for i in shuffled(100, 42)[:7]]


# --- looking over


def test_duplicates_conflicts_and_imbalance_are_counted():
    texts = ["One.", "one. ", "ONE.<br />", "Two.", "Three.", *"12345"]
    train = Rows("a", texts, ["positive"] * 3 + ["negative"] + ["positive"] * 6)
    test = Rows("b", ["two.", "Two.", "Four."], ["negative", "positive", "positive"])
    found = look_over({"train": train, "test": test})
    assert found.num_rows == {"train": 10, "test": 3}
    assert found.balance["train"] == {"negative": 1, "positive": 9}
    assert found.duplicates == {"train": 2, "test": 1}
    assert found.shared == {"train / test": 2}
    assert found.conflicts == 1
    assert found.warnings == [
        "train: 9 to 1 rows per label, beyond 1:4; data.balance=weights or sample evens it out",
        "2 rows of test also occur in train",
        "1 texts occur with different labels",
    ]


def test_four_to_one_is_no_imbalance_yet():
    labels = ["positive"] * 4 + ["negative"]
    assert look_over({"train": Rows("a", list("abcde"), labels)}).warnings == []


def test_hashes_tell_texts_and_labels_apart():
    rows = Rows("a", ["x", "x", "y", "x\0y"], ["p", "n", "p", "p"])
    assert len(set(rows.hashes())) == 4 and rows.hashes() == rows.hashes()
    assert {len(h) for h in rows.hashes()} == {64}
