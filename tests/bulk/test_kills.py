"""Jobs that are killed, and jobs of many rows: each in processes of its own."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import failed, run

from sentilora.bulk import scoring, units

HERE = Path(__file__).parent
WORDS = ["good", "dull", "long", "a film", "actors", "never", "lovely"]


def script(name, *arguments):
    """(stdout, stderr) of a script beside this file."""
    command = [sys.executable, str(HERE / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def write_rows(path, num_rows, length):
    texts = [
        " ".join(WORDS[(row * 7 + i * i) % len(WORDS)] for i in range(1 + row % length))
        for row in range(num_rows)
    ]
    texts[num_rows // 2] = ""
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"text": texts}), path, row_group_size=2000)
    elif path.suffix == ".csv":
        path.write_text("text\n" + "".join(f'"{text}"\n' for text in texts))
    else:
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


@pytest.mark.slow
@pytest.mark.parametrize(("output", "num_kills"), [("out/", 20), ("out.csv", 5)])
def test_a_job_killed_at_any_moment_ends_as_one_that_was_not(toy_run, tmp_path, output, num_kills):
    """datasets #5089, Daft #7373: a crash loses the job, or rows of it."""
    source = tmp_path / "in.jsonl"
    write_rows(source, 8 * 100, 30)
    ask = ["predict", "--input", source, "--adapter", toy_run, "--output"]
    seed = int.from_bytes(os.urandom(4), "big")
    for folder, kills in (("killed", num_kills), ("whole", 0)):
        (tmp_path / folder).mkdir()
        target = f"{tmp_path / folder}/{output}"
        script("killed.py", seed, kills, tmp_path / f"log-{folder}", *ask, target)
    found, expected = (
        {
            path.relative_to(tmp_path / folder): path.read_bytes()
            for path in (tmp_path / folder).rglob("*")
            if path.is_file()
        }
        for folder in ("killed", "whole")
    )
    assert found == expected, f"seed {seed}"
    assert len(found) == (102 if output == "out/" else 1)
    begun = Counter((tmp_path / "log-killed").read_text().split())
    assert len(begun) == 100 and begun.total() <= 100 + num_kills, f"seed {seed}"


def test_a_job_killed_while_it_removes_its_units_is_complete(toy_run, tmp_path, monkeypatch):
    """From bench/kills.py: labeled.csv was whole, and the same command said that it exists."""
    source, output = tmp_path / "in.jsonl", tmp_path / "labeled.csv"
    write_rows(source, 24, 5)
    ask = ["predict", "--input", source, "--adapter", toy_run, "--output", output]

    def clear(folder):
        (folder / "part-00001-of-00003.arrow").unlink()
        raise ZeroDivisionError

    monkeypatch.setitem(units.ROWS_PER_UNIT, "cpu", 8)
    with monkeypatch.context() as patch:
        patch.setattr(scoring, "_clear", clear)
        with pytest.raises(ZeroDivisionError):
            run(*ask)
    content = output.read_bytes()
    code, _, stderr = run(*ask)
    assert code == 0 and "3 of 3 units done before" in stderr, stderr
    assert output.read_bytes() == content
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "labeled.csv"]
    failed(2, "labeled.csv exists", *ask)


@pytest.mark.slow
def test_memory_does_not_depend_on_the_number_of_rows(toy_run, tmp_path):
    """vLLM #30268: the whole file was in memory."""
    sources = []
    for suffix in ("parquet", "csv", "jsonl"):
        for num_rows in (50_000, 250_000):
            sources.append(tmp_path / f"{num_rows}.{suffix}")
            write_rows(sources[-1], num_rows, 80)
    stdout, _ = script("memory.py", toy_run, *sources)
    peaks = [int(line) for line in stdout.split()]
    assert len(peaks) == 12, stdout
    for number in range(0, 12, 4):
        few, many = peaks[number : number + 2], peaks[number + 2 : number + 4]
        for before, after in zip(few, many, strict=True):
            # Held as a whole, the texts alone would be 70 MB, of 320. Alone, a run varies by 3 %.
            assert after < 1.08 * before, (sources[number // 2], peaks)
