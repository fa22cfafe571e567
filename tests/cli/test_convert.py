"""`sentilora convert` and `sentilora distill` from the command line."""

import json

from commands import run


def table(folder):
    lines = ["message,answer", *[f"text {i},{('yes', 'no')[i % 2]}" for i in range(40)]]
    (folder / "x.csv").write_text("\n".join(lines))
    return folder / "x.csv"


def test_convert_takes_columns_and_settings(tmp_path):
    code, stdout, stderr = run(
        "convert", table(tmp_path), tmp_path / "y.jsonl", "--text-column", "message",
        "--label-column", "answer", "prompt.instruction=Yes?", "data.soft_labels=true",
        "--soft-key", "gold",
    )  # fmt: skip
    assert (code, stdout) == (0, ""), stderr
    assert (
        "40 records of" in stderr and "soft labels, shares of the labels in column answer" in stderr
    )
    first = json.loads((tmp_path / "y.jsonl").read_text().splitlines()[0])
    assert first["gold"] == {"label": {"no": 0.0, "yes": 1.0}}
    code, _, stderr = run("convert", table(tmp_path), tmp_path / "y.jsonl")
    assert code == 2 and stderr.strip().endswith("exists; remove it, or choose another file")
    code, _, stderr = run("convert", table(tmp_path), tmp_path / "none" / "y.jsonl")
    assert code == 2 and "--output" not in stderr  # an option that convert has not
    code, _, stderr = run("convert", tmp_path / "none.csv", tmp_path / "z.jsonl")
    assert code == 3 and "there is no file or folder" in stderr


def test_distill_without_a_teacher_says_which_option_names_one(tmp_path):
    code, _, stderr = run("distill", "--texts", table(tmp_path))
    assert code == 2 and "--teacher" in stderr
    code, _, stderr = run("distill", "--texts", table(tmp_path), "--teacher", tmp_path)
    assert code == 3, stderr
