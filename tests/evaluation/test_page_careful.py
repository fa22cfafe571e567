"""The page's tables of differences, surviving errors, label sets, ordered labels, requirements."""

import numpy as np
import pytest
from reports import make_report, make_scores, opened

from sentilora.evaluation.differences import differences
from sentilora.evaluation.findings import Requirement
from sentilora.evaluation.label_sets import least_probability, measure_sets
from sentilora.evaluation.ordered import measure_ordered
from sentilora.evaluation.survivors import survivors

LABELS = ("very negative", "negative", "neutral", "positive", "very positive")
TABLES = ("required", "probabilities", "survivors", "sets", "ordered")
NUM_ROWS = 900


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    scores, rows = make_scores(NUM_ROWS, 5, strength=2.0), make_scores(500, 5, 3, 2.0)
    least = least_probability(rows.adapter, rows.truth, 0.9)
    more = {
        "label_sets": measure_sets([(0.9, least)], scores.adapter, scores.truth, 500),
        "ordered": {
            name: measure_ordered(probabilities, scores.truth, range(1, 6))
            for name, probabilities in (("adapter", scores.adapter), ("base", scores.base))
        },
        "required": [
            Requirement("accuracy>=0.9", 0.5612, False, "it is 0.5612"),
            Requirement("per_label.<b>very positive</b>.recall.low>=0.5", 0.51, True, "it is 0.51"),
        ],
    }
    folder = tmp_path_factory.mktemp("careful") / "report"
    path, _, _ = make_report(folder, NUM_ROWS, 5, labels=LABELS, strength=2.0, **more)
    return path, scores, more


def cells(page, table):
    """The cells of a table, row by row."""
    rows = page.locator(f"#{table} tbody tr").all()
    return [[cell.inner_text() for cell in row.locator("td").all()] for row in rows]


@pytest.mark.parametrize("width", [1280, 390])
def test_the_tables_show_the_figures_and_fit(chromium, report, width):
    path, scores, more = report
    page, said, _ = opened(chromium, path, viewport={"width": width, "height": 900})
    assert said == []
    assert page.evaluate("document.documentElement.scrollWidth") == width
    for table in TABLES:  # none needs to be scrolled sideways
        fits = page.evaluate(f"document.getElementById('{table}').parentElement.scrollWidth")
        assert fits <= page.evaluate(
            f"document.getElementById('{table}').parentElement.clientWidth"
        ), table
    assert cells(page, "required") == [
        ["accuracy>=0.9", "it is 0.5612", "not met"],
        ["per_label.<b>very positive</b>.recall.low>=0.5", "it is 0.51", "met"],
    ]
    differing = differences(scores.adapter, scores.base, scores.truth, num_resamples=100)
    name, log_loss, *_ = cells(page, "probabilities")[0]
    low, high = (f"{abs(bound):.4f}" for bound in differing.log_loss.interval)
    assert name == "against its base without adapter"
    assert log_loss.split() == [
        f"−{abs(differing.log_loss.difference):.4f}", f"−{low}", "to", f"−{high}"
    ]  # fmt: skip
    (found,) = more["label_sets"]
    assert cells(page, "sets") == [
        ["90 %", f"{100 * found.coverage:.1f} %",
         " – ".join(f"{100 * bound:.1f} %" for bound in found.interval),
         f"{found.mean_size:.2f}", f"{100 * found.share_single:.1f} %"]
    ]  # fmt: skip
    assert page.locator("#sets-note").inner_text().startswith("Chosen on 500 evaluation rows")
    ordered = cells(page, "ordered")
    assert [row[0] for row in ordered] == ["fine-tuned", "base without adapter"]
    assert ordered[0][1] == f"{more['ordered']['adapter'].mean_absolute_error:.4f}"
    assert ordered[1][4] == f"{more['ordered']['base'].quadratic_kappa:.4f}"
    assert "From very negative to very positive" in page.locator("#ordered-note").inner_text()


def test_the_page_counts_the_wrong_answers_that_survive(chromium, report):
    path, scores, _ = report
    page, _, _ = opened(chromium, path)
    num_wrong = int((scores.adapter.argmax(1) != scores.truth).sum())
    assert f"of {num_wrong} wrong answers" in page.locator("#survivors-section .gloss").inner_text()
    table = survivors(scores.adapter, scores.truth)
    assert [row[0] for row in cells(page, "survivors")] == ["80 %", "90 %", "95 %"]
    for row, found in zip(cells(page, "survivors"), table, strict=True):
        assert row[1] == f"{100 * found.coverage:.1f} %" and row[2] == str(found.num_wrong)


def test_sections_without_figures_are_not_there(chromium, tmp_path):
    path, _, _ = make_report(tmp_path / "report", 60)
    page, said, _ = opened(chromium, path)
    assert said == []
    for section in ("required", "sets", "ordered"):
        assert page.locator(f"#{section}-section").count() == 0
    assert page.locator("#survivors-section").count() == 1
    assert np.shape(cells(page, "probabilities")) == (2, 4)
