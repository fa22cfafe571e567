"""The README stays short, and its figures are those of docs/results.md."""

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"
NUMBER = re.compile(r"(?<![\w.-])\d[\d,]*(?:\.\d+)?(?![\w-])")


def numbers_in(text):
    """The numbers of a text without its dates, as they are written."""
    without_dates = re.sub(r"\d{4}-\d{2}-\d{2}", "", text)
    return [number.replace(",", "") for number in NUMBER.findall(without_dates)]


def test_it_is_short_and_names_its_two_commands():
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 136
    pictures = ("docs/report.png", "docs/page.png")
    for words in ("make demo", "make test", "make env", "not on PyPI", *pictures):
        assert words in text, words


def test_every_figure_of_the_results_table_stands_in_the_results():
    text = README.read_text(encoding="utf-8")
    table = text.split("## Results", 1)[1].split("Every number", 1)[0]
    results = (README.parent / "docs/results.md").read_text(encoding="utf-8")
    measured = {float(number) for number in numbers_in(results)}
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) >= 7
    num_figures = 0
    for row in rows:
        assert re.search(r"\d{4}-\d{2}-\d{2}", row), f"no date: {row}"
        for number in numbers_in(row.split("|")[3]):
            num_digits = len(number.partition(".")[2])
            assert any(round(value, num_digits) == float(number) for value in measured), number
            num_figures += 1
    assert num_figures >= 12
