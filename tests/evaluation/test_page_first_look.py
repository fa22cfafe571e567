"""What a reader of the report needs first: what to beat, what went wrong, what to do next."""

import json
import re

import numpy as np
import pytest
from reports import make_report, opened

from sentilora.evaluation.findings import (
    Evaluation,
    verdict,
)
from sentilora.evaluation.label_figures import majority_of, per_label
from sentilora.evaluation.table import as_table
from sentilora.metrics import compare, measure_fully
from sentilora.wording import as_p


def test_the_figures_to_beat_stand_beside_the_accuracy(chromium, tmp_path):
    path, scores, _ = make_report(tmp_path / "report")
    page, said, _ = opened(chromium, path)
    accuracy = (scores.baseline.argmax(-1) == scores.truth).mean()
    assert page.locator("#baseline-score .big").inner_text() == f"{100 * accuracy:.1f} %"
    most = np.bincount(scores.truth).argmax()
    share = f"{100 * (scores.truth == most).mean():.2f} %"
    assert (
        page.locator("#majority-score .big").inner_text()
        == f"{100 * np.mean(scores.truth == most):.1f} %"
    )
    cells = page.locator("#models tbody tr").last.locator("td").all_inner_texts()
    assert [cell.strip() for cell in cells[:2]] == ["majority", share] and cells[-1].strip() == "–"
    note = page.locator("#majority-note").inner_text()
    assert f"always answering “{['positive', 'negative'][most]}”" in note and "test rows" in note
    top = "e => e.getBoundingClientRect().top"
    places = [page.locator(name).evaluate(top) for name in ("#accuracy", "#baseline-score .big")]
    assert abs(places[0] - places[1]) < 40 and said == []  # side by side


def test_one_answer_for_all_has_a_banner_above_everything(chromium, tmp_path):
    path, _, _ = make_report(tmp_path / "one", usual=0)
    page, said, _ = opened(chromium, path)
    banner = page.locator("main > :first-child")
    assert banner.get_attribute("role") == "alert"
    assert banner.inner_text().startswith("One answer for all rows: 2,600 of 2,600 are answered po")
    assert "Train it again" in banner.inner_text()
    path, _, _ = make_report(tmp_path / "other")
    page, said_other, _ = opened(chromium, path)
    assert page.locator("#banner").count() == 0 and said == said_other == []


def test_the_next_steps_are_the_evaluations_own(chromium, tmp_path):
    path, _, _ = make_report(tmp_path / "report")
    page, said, _ = opened(chromium, path)
    figures = json.loads(path.with_name("report.json").read_text(encoding="utf-8"))
    steps = figures["evaluation"]["next_steps"]
    shown = page.locator("#next li").all_inner_texts()
    assert 1 <= len(steps) <= 4 and shown == [step.replace("`", "") for step in steps]
    assert page.locator("#next code").first.inner_text() == "sentilora predict" and said == []


@pytest.mark.parametrize("num_labels", [2, 77])
def test_precision_and_recall_of_every_label_and_what_it_is_taken_for(
    chromium, tmp_path, num_labels
):
    labels = tuple(f"a_label_with_a_long_name_{i}" for i in range(num_labels))
    path, scores, _ = make_report(
        tmp_path / "report", num_labels=num_labels, labels=labels, strength=3
    )
    page, said, _ = opened(chromium, path, viewport={"width": 390, "height": 844})
    rows = page.locator("#per-label tbody tr")
    assert rows.count() == num_labels
    f1 = [float(x) for x in page.locator("#per-label td:nth-child(7)").all_inner_texts()]
    assert num_labels == 2 or f1 == sorted(f1)  # of many, the weakest first
    cells = [cell.strip() for cell in rows.first.locator("td").all_inner_texts()]
    number = labels.index(cells[0])
    is_true, is_answer = scores.truth == number, scores.adapter.argmax(-1) == number
    right = (is_true & is_answer).sum()
    assert cells[1:5] == [
        str(is_true.sum()) if is_true.sum() < 1000 else f"{is_true.sum():,}",
        str(is_answer.sum()) if is_answer.sum() < 1000 else f"{is_answer.sum():,}",
        f"{100 * right / is_answer.sum():.1f} %",
        f"{100 * right / is_true.sum():.1f} %",
    ]
    if num_labels == 77:  # a matrix would be too small to read
        assert page.locator("#confusion rect").count() == 0
        counts = [int(x) for x in page.locator("#confusions td:last-child").all_inner_texts()]
        assert len(counts) == 20 and counts == sorted(counts, reverse=True)
        assert page.locator("#confusion-title").inner_text() == "Most frequent confusions"
        page.locator(".row > summary").first.click()
        text = page.locator(".row").first.locator("p.soft").inner_text()
        assert 5 <= text.count(" %") <= 6  # the likeliest labels and the true one
    assert page.evaluate("document.documentElement.scrollWidth") == 390 and said == []


def test_closed_errors_show_their_true_label(chromium, tmp_path):
    path, _, _ = make_report(tmp_path / "report")
    page, said, _ = opened(chromium, path)
    first = page.locator(".row > summary").first
    label = page.evaluate("evaluation.labels[matchingRows()[0].truth]")
    assert first.locator(".truth").inner_text() == f"true: {label}"
    assert page.locator(".row").first.get_attribute("open") is None
    page.locator("#kind").select_option("all")
    num_wrong = page.evaluate("matchingRows().slice(0, limit).filter(wrong).length")
    assert page.locator(".row .truth").count() == num_wrong and said == []


def test_the_p_value_is_the_same_everywhere(chromium, tmp_path):
    """Issue: 0.020 in the page's table, 0.02 in the verdict and in the text."""
    path, scores, _ = make_report(tmp_path / "report", num_rows=60)
    right = [p.argmax(-1) == scores.truth for p in (scores.adapter, scores.base, scores.baseline)]
    page, said, _ = opened(chromium, path)
    shown = page.locator("#differences td:last-child").all_inner_texts()
    found = [compare(right[0], other) for other in right[1:]]
    assert [cell.strip() for cell in shown] == [as_p(comparison.p) for comparison in found]
    figures = json.loads(path.with_name("report.json").read_text(encoding="utf-8"))["evaluation"]
    written = [figures["comparisons"][name]["p"] for name in ("base", "baseline")]
    assert written == [comparison.p for comparison in found]
    labels = ("positive", "negative")
    sentence = verdict(labels, measure_fully(scores.base, scores.truth), {"base": found[0]}, None)
    assert f"exact McNemar {as_p(found[0].p)}" in sentence and said == []


def test_an_interval_that_disagrees_with_the_test_is_explained(chromium, tmp_path):
    comparison = compare(
        [True] * 31 + [False] * 9, [True] * 17 + [False] * 14 + [True] * 5 + [False] * 4
    )
    assert comparison.disagreement
    base = measure_fully(np.tile([0.6, 0.4], (40, 1)), [0] * 20 + [1] * 20)
    sentence = verdict(("a", "b"), base, {"baseline": comparison}, None)
    assert sentence.startswith("No difference from TF-IDF")
    assert sentence.endswith(f"). {comparison.disagreement}")
    path, _, _ = make_report(tmp_path / "report", comparisons={"baseline": comparison})
    page, said, _ = opened(chromium, path)
    assert "p is below 0.05" in page.locator("#criterion").inner_text()
    assert page.locator("#disagreement").inner_text() == comparison.disagreement.replace(
        "The interval", "The interval against TF-IDF + logistic regression"
    )
    path, _, _ = make_report(tmp_path / "agrees")
    page, said_agrees, _ = opened(chromium, path)
    assert page.locator("#disagreement").inner_text() == "" and said == said_agrees == []


def test_every_term_has_a_word_of_explanation(chromium, tmp_path):
    path, _, _ = make_report(tmp_path / "report")
    page, said, _ = opened(chromium, path)
    for name, num_plain in {"models": 1, "differences": 1, "per-label": 1}.items():
        heads = page.locator(f"#{name} th")
        assert heads.count() - page.locator(f"#{name} th > small").count() == num_plain
    page.locator("#terms > summary").click()
    terms = " ".join(page.locator("#terms dt").all_inner_texts())
    for term in (
        "Accuracy", "interval", "Precision", "Recall", "macro-F1", "Log-loss", "Brier", "ROC-AUC",
        "ECE", "McNemar", "p", "Temperature", "Coverage", "threshold", "Majority", "Log-odds",
    ):  # fmt: skip
        assert re.search(rf"\b{term}\b", terms), term
    assert page.locator("#terms dt").count() == page.locator("#terms dd").count()
    figures = page.locator("section:has(figure)")
    assert figures.count() == figures.locator("> .gloss").count() == 4 and said == []


def test_many_labels_fit_a_terminal():
    """Issue: 77 labels. The text lists the weakest and what is confused, not a matrix."""
    truth = np.arange(770) % 77
    probabilities = np.eye(77)[np.where(truth < 12, (truth + 1) % 77, truth)] * 0.9 + 0.1 / 77
    metrics = measure_fully(probabilities, truth)
    labels = tuple(f"label_{i}" for i in range(77))
    result = Evaluation(
        test="rows.csv", num_rows=770, num_truncated=0, labels=labels, adapter_path=None,
        base_name="embedded", base=metrics, per_label=per_label(labels, metrics.confusion),
        majority=majority_of(labels, truth, None),
    )  # fmt: skip
    lines = as_table(result).splitlines()
    assert max(map(len, lines)) < 120
    start = next(i for i, line in enumerate(lines) if line.startswith("weakest 10 of 77 labels"))
    assert lines[start + 1].split()[:3] == ["label_0", "10", "0"] and lines[start + 11] == ""
    assert lines[start + 12] == "most frequent confusions"
    assert lines[start + 13].split() == ["10", "label_0", "answered", "label_1"]
    assert len(lines) == start + 23
