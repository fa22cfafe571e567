"""Text files with a byte-order mark, and JSON on a stdout that is not UTF-8."""

import json
import os
import shutil
import subprocess
import sys

from commands import run

from sentilora.cli.options import json_for
from sentilora.cli.predict import _template
from sentilora.config import load_config, parse_override, read_config
from sentilora.data.rows import Columns
from sentilora.data.sources import load_rows
from sentilora.evaluation.suite import load_suite
from sentilora.folders.classifier_file import ClassifierFile
from sentilora.folders.run_folder import DataRecord

BOM = b"\xef\xbb\xbf"
FILM = "A fílm 🎬, “lovely” 漢字"


# --- a byte-order mark, as Windows' Notepad writes it (hukkin/tomli #304)


def test_a_configuration_may_begin_with_a_byte_order_mark(toy_base, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_bytes(BOM + b"[training]\nseed = 7\n")
    assert load_config(file=path).training.seed == 7
    code, stdout, stderr = run("check", "--config", path, f"base.name={toy_base}")
    assert code == 0, stdout + stderr
    assert parse_override("prompt.template=\ufeff{text}\nAnswer:") == (
        "prompt.template",
        "{text}\nAnswer:",
    )


def test_a_suite_may_begin_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "suite.toml"
    path.write_bytes(BOM + b'[[tests]]\ncapability = "c"\nkind = "minimum functionality"\n'
                     b'label = "positive"\ntexts = ["Good."]\n')  # fmt: skip
    assert load_suite(path).texts == ["Good."]


def test_a_template_may_begin_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "template.txt"
    path.write_bytes(BOM + b"Review: {text}\nLabel: ")
    assert _template(str(path)) == "Review: {text}\nLabel: "
    assert _template("\ufeffReview: {text}") == "Review: {text}"


def test_a_text_file_may_begin_with_a_byte_order_mark(tmp_path):
    for label in ("neg", "pos"):
        (tmp_path / "train" / label).mkdir(parents=True)
        (tmp_path / "train" / label / "1.txt").write_bytes(BOM + b"A film.")
    columns = Columns(label_map={"neg": "n", "pos": "p"}, labels=("n", "p"))
    assert load_rows(str(tmp_path), "train", columns).texts == ["A film.", "A film."]


def test_files_of_an_adapter_may_be_saved_again_with_a_byte_order_mark(toy_run, tmp_path):
    folder = shutil.copytree(toy_run, tmp_path / "run")
    for name in ("sentilora.toml", "classifier.json", "data.json"):
        (folder / name).write_bytes(BOM + (folder / name).read_bytes())
    assert read_config(folder / "sentilora.toml") == read_config(toy_run / "sentilora.toml")
    assert ClassifierFile.load(folder) == ClassifierFile.load(toy_run)
    assert DataRecord.load(folder) == DataRecord.load(toy_run)


# --- JSON on a stdout that is not UTF-8 (larksuite/cli #2479)


def test_json_is_lossless_in_every_encoding():
    text = json.dumps({"text": FILM, "path": "caf\udce9"}, ensure_ascii=False)
    for encoding in ("ascii", "ANSI_X3.4-1968", "cp1252", "latin-1", None):
        written = json_for(encoding, text)
        assert written.isascii() and json.loads(written) == json.loads(text)
    for encoding in ("utf-8", "UTF8"):
        assert FILM in json_for(encoding, text)
        assert json.loads(json_for(encoding, text).encode()) == json.loads(text)


def test_predict_prints_json_that_says_what_was_classified(toy_run):
    command = [sys.executable, "-m", "sentilora", "predict", "--adapter", toy_run, "--json", FILM]
    done = subprocess.run(command, capture_output=True, check=True,
                          env={**os.environ, "PYTHONIOENCODING": "cp1252"})  # fmt: skip
    assert json.loads(done.stdout.decode())["text"] == FILM


def test_evaluate_prints_and_writes_json_that_names_the_file(toy_run, tmp_path):
    source = tmp_path / "fílms 🎬.csv"
    source.write_text("text,label\nGood film.,pos\nBad film.,neg\n")
    output = tmp_path / "result.json"
    command = [sys.executable, "-m", "sentilora", "evaluate", "--adapter", toy_run, "--json",
               f"data.test={source}", "--output", output]  # fmt: skip
    done = subprocess.run(command, capture_output=True, check=True,
                          env={**os.environ, "PYTHONIOENCODING": "ascii"})  # fmt: skip
    assert json.loads(done.stdout.decode()) == json.loads(output.read_bytes().decode())
    assert json.loads(done.stdout)["test"] == str(source)
