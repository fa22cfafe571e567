"""The report: its figures, and the page itself in a browser, offline, in both themes."""

import json
import re
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
from reports import ATTACK, make_report, make_scores, opened, whole

from sentilora.data.rows import Rows
from sentilora.data.text import blank_line_breaks
from sentilora.errors import UsageError
from sentilora.evaluation.behaviour import judge
from sentilora.evaluation.findings import (
    ErrorExplanations,
    by_rating,
    surest_errors,
)
from sentilora.evaluation.label_issues import LabelIssue, LabelIssues
from sentilora.evaluation.page import (
    MAX_ROWS,
    coverage_points,
    embedded_rows,
    groups,
)
from sentilora.evaluation.suite import DIRECTIONAL, FUNCTIONALITY, INVARIANCE, Case, Suite
from sentilora.folders.run_folder import require_unused
from sentilora.metrics import measure_fully
from sentilora.scoring.explain import DeletionTest, Explanation, Word, words_of


def test_the_figures_and_the_predictions_are_complete(tmp_path):
    page, scores, rows = make_report(tmp_path / "report")
    assert sorted(path.name for path in page.parent.iterdir()) == [
        "predictions.parquet", "report.html", "report.json",
    ]  # fmt: skip
    figures = json.loads(page.with_name("report.json").read_text(encoding="utf-8"))
    assert "rows" not in figures  # no text of a review
    assert figures["evaluation"]["adapter"] == json.loads(
        json.dumps(asdict(measure_fully(scores.adapter, scores.truth)))
    )
    assert figures["training"][-1] == {"step": 30} and "r = 16" in figures["recipe"]
    frame = pd.read_parquet(page.with_name("predictions.parquet"))
    assert frame["text"].tolist() == rows.texts and frame["label"].tolist() == rows.labels
    assert np.array_equal(frame["probability_negative"], scores.adapter[:, 1])
    assert np.array_equal(frame["base_probability_positive"], scores.base[:, 0])
    wrong = (frame["prediction"] != frame["label"]).mean()
    assert 1 - wrong == pytest.approx(figures["evaluation"]["adapter"]["accuracy"])
    assert frame.loc[3, "twin_split"] == "train" and frame["twin_row"].notna().sum() == 293
    assert "suggested_label" not in frame.columns


def test_the_page_shows_the_surest_errors_then_the_most_uncertain():
    scores = make_scores(9000)
    found = embedded_rows(scores, Rows("a", ["text"] * 9000, []), {}, whole)
    assert len(found) == MAX_ROWS and len({row["number"] for row in found}) == MAX_ROWS
    is_wrong = [row["predicted"] != row["truth"] for row in found]
    num_errors = int((scores.adapter.argmax(-1) != scores.truth).sum())
    assert sum(is_wrong) >= min(num_errors, 1500)
    sure = [max(row["probabilities"]) for row in found]
    first = min(num_errors, 1500)
    assert all(is_wrong[:first]) and sure[:first] == sorted(sure[:first], reverse=True)
    assert sure[first:] == sorted(sure[first:])


def test_groups_cover_every_row_once_by_length_and_once_by_cut():
    scores = make_scores(500)
    texts = ["word " * (i % 50 + 1) for i in range(500)]
    found = groups(scores, texts)
    by_length = [g for g in found if "words" in g["name"]]
    assert sum(g["num_rows"] for g in by_length) == 500 and len(by_length) == 5
    assert sum(g["num_rows"] for g in found) == 1000
    assert found[-1]["num_rows"] == scores.truncated.sum()
    assert groups(make_scores(1), ["one word"])[0]["num_rows"] == 1
    names = [g["name"] for g in groups(scores, ["word " * (i % 5 + 1) for i in range(500)])]
    assert names[:-2] == ["up to 2 words", "3 words", "4 words", "5 words"]


def test_coverage_ends_with_every_row():
    for num in (1, 7, 5000):
        scores = make_scores(num)
        points = coverage_points(scores.adapter, scores.truth)
        assert points[-1]["coverage"] == 1.0 and len(points) <= 200
        accuracy = (scores.adapter.argmax(-1) == scores.truth).mean()
        assert points[-1]["accuracy"] == pytest.approx(accuracy)


def test_a_folder_in_use_is_refused(tmp_path):
    require_unused(tmp_path / "new", "report", "")
    (tmp_path / "file").write_text("")
    for used in (tmp_path, tmp_path / "file"):
        with pytest.raises(UsageError, match=r"is in use; choose another `report`$"):
            require_unused(used, "report", "")


def test_a_folder_that_may_not_be_written_to_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(UsageError, match=f"^{tmp_path} may not be written to; choose another `re"):
        require_unused(tmp_path, "report", "")


def test_a_report_that_cannot_be_finished_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(content):
        assert [path.suffix for path in tmp_path.iterdir()] == [""]  # what is there is put aside
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sentilora.evaluation.page.as_page", full)
    with pytest.raises(OSError, match="No space left"):
        make_report(tmp_path, num_rows=20)
    assert list(tmp_path.iterdir()) == []


# --- in a browser --------------------------------------------------------------------------------


@pytest.mark.parametrize(("num_labels", "named"), [(2, "below 75 %"), (20, "by less than 50")])
def test_uncertain_is_what_is_hardly_ahead_of_the_next_label(chromium, tmp_path, num_labels, named):
    # Of twenty labels many a clear answer is below 0.75: the rest is spread over eighteen others.
    path, scores, _ = make_report(
        tmp_path / "report", num_rows=900, num_labels=num_labels, strength=5
    )
    page, said, _ = opened(chromium, path)
    second, first = np.sort(scores.adapter, axis=-1)[:, -2:].T
    page.locator("#kind").select_option("uncertain")
    assert named in page.locator("#kind option:checked").inner_text()
    count = int(page.locator("#count").inner_text().split(" ")[0])
    assert count == (first - second < 0.5).sum() > 0
    if num_labels == 2:
        assert count == (first < 0.75).sum()
    else:
        assert count < (first < 0.75).sum()
    page.locator("#sort").select_option("unsure")
    leads = page.evaluate("matchingRows().map(lead)")
    assert leads == sorted(leads) and leads[0] == pytest.approx((first - second).min(), abs=1e-5)
    assert said == []


@pytest.mark.parametrize("num_labels", [2, 20])
def test_the_page_opens_without_a_word_and_without_a_network(chromium, tmp_path, num_labels):
    path, scores, _ = make_report(tmp_path / "report", num_labels=num_labels)
    page, said, asked = opened(chromium, path)
    accuracy = (scores.adapter.argmax(-1) == scores.truth).mean()
    assert page.locator("#accuracy").inner_text() == f"{100 * accuracy:.1f} %"
    assert page.title() == f"{100 * accuracy:.1f} % – my-adapter"
    assert page.locator("#confusion rect").count() == num_labels**2
    assert page.locator("#models tbody tr").count() == 5
    assert page.locator("#notes").inner_text() == "Nothing of note."
    # One evaluation: its accuracy and log-loss are points.
    assert page.locator("#training polyline").count() == 1
    assert page.locator("#training circle").count() == 2
    assert page.locator("#versions").inner_text().split() == ["sentilora", "0.1.0"]
    assert (said, asked) == ([], [path.as_uri()])


def test_rows_of_a_single_label_have_a_dash_for_what_is_not_defined(chromium, tmp_path):
    """keras #796: macro-F1 and ROC-AUC of rows of one label."""
    path, _, _ = make_report(tmp_path / "report", num_rows=30)
    text = path.read_text(encoding="utf-8")
    path.write_text(re.sub(r'"(macro_f1|roc_auc)": [0-9.]+', r'"\1": null', text), encoding="utf-8")
    page, said, _ = opened(chromium, path)
    cells = page.locator("#models tbody tr").first.locator("td").all_text_contents()
    assert (cells.count("–"), said) == (2, [])


def test_axes_have_round_numbers_and_names(chromium, tmp_path):
    path, _, _ = make_report(tmp_path / "report")
    page, said, _ = opened(chromium, path)
    percents = [f"{n} %" for n in range(0, 101, 20)]
    for figure, names in {
        "reliability": ["probability of the answer", "accuracy"],
        "coverage": ["coverage (share of rows answered)", "accuracy of these answers"],
        "training": ["optimizer step", "accuracy; relative loss"],
        "confusion": ["predicted label", "true label"],
    }.items():
        texts = page.locator(f"#{figure} svg text").all_text_contents()
        assert texts[-2:] == names
    texts = page.locator("#training svg text").all_text_contents()
    assert texts[:-2] == [*percents, "0", "10", "20", "30"]
    for (low, high, least), expected in {
        (0, 1, 0): [0, 0.2, 0.4, 0.6, 0.8, 1],
        (0.4, 1, 0): [0.4, 0.6, 0.8, 1],
        (0.9, 1, 0): [0.9, 0.92, 0.94, 0.96, 0.98, 1],
        (0.95, 1, 0): [0.95, 0.96, 0.97, 0.98, 0.99, 1],
        (0, 375, 1): [0, 100, 200, 300],
        (0, 1, 1): [0, 1],
        (0, 12_000, 1): [0, 5000, 10_000],
    }.items():
        assert page.evaluate(f"ticks([{low}, {high}], {least})") == pytest.approx(expected)
    shown = page.evaluate(
        "[percent(1), percent(0.9999), percent(0.996, 0), chance(1), chance(1, 2)]"
    )
    assert shown == ["100.0 %", "99.9 %", "99 %", "99.9 %", "99.99 %"]
    assert said == []


def test_a_temperature_at_its_bound_is_told_of(chromium, tmp_path):
    for caution, end in {None: r"0\.\d{4}\.", "the fit ran": r"0\.\d{4}\. The fit ran\."}.items():
        path, _, _ = make_report(tmp_path / f"{caution}", caution=caution)
        page, said, _ = opened(chromium, path)
        assert re.search(end + "$", page.locator("#reliability figcaption").inner_text())
        assert said == []


def test_a_model_that_is_always_right_has_its_figures(chromium, tmp_path):
    path, _, _ = make_report(tmp_path / "report", strength=50)
    page, said, _ = opened(chromium, path)
    assert page.locator("#accuracy").inner_text() == "100.0 %" and said == []
    assert "NaN" not in page.content()
    top = "circles => Math.min(...circles.map(c => c.getAttribute('cy') - c.getAttribute('r')))"
    assert page.locator("#reliability circle").evaluate_all(top) >= 0  # no dot is cut off


def test_a_few_rows_with_long_labels_have_their_figures(chromium, tmp_path):
    labels = ("a complaint about the invoice", "praise", "🎬" * 15)
    path, _, _ = make_report(tmp_path / "report", num_rows=9, num_labels=3, labels=labels)
    page, said, _ = opened(chromium, path)
    assert page.locator("#coverage circle").count() >= 1  # a curve of one point
    cut = page.locator("#confusion svg text:has(title)")
    assert cut.locator("title").all_text_contents() == [labels[0], labels[0], labels[2]]
    shown = cut.evaluate_all("texts => texts.map(text => text.firstChild.textContent)")
    assert shown == ["a complaint ab…", "a complaint…", "🎬" * 11 + "…"] and said == []


def test_errors_are_searched_filtered_sorted_and_expanded(chromium, tmp_path):
    path, _, rows = make_report(tmp_path / "report")
    page, said, _ = opened(chromium, path)

    def num_found():
        return int(page.locator("#count").inner_text().split(" ")[0].replace(",", ""))

    errors = num_found()
    assert page.locator(".row").count() == min(50, errors)
    page.locator("#more").click()
    assert page.locator(".row").count() == min(150, errors)
    # A text that would be a script is shown as it is.
    page.locator(".row > summary").first.click()
    assert ATTACK.split(" ")[0] in page.locator(".row p").first.inner_text()
    page.locator("#kind").select_option("all")
    assert num_found() == MAX_ROWS
    page.locator("#truth").select_option("1")
    some = num_found()
    assert 0 < some < MAX_ROWS
    page.locator("#cut").check()
    assert 0 < num_found() < some
    page.locator("#cut").uncheck()
    page.locator("#truth").select_option("")
    wanted = page.evaluate("data.rows[17].number")
    page.locator("#search").fill(f"REVIEW NUMBER {wanted} ")
    assert num_found() == 1
    page.locator(".row > summary").click()
    assert rows.texts[wanted].strip() == page.locator(".row p").first.inner_text().strip()
    assert (
        f"Row {wanted:,}, true label {rows.labels[wanted]}."
        in page.locator(".row p").nth(1).inner_text()
    )
    page.locator("#search").fill("no such text")
    assert num_found() == 0 and page.locator(".row").count() == 0
    page.locator("#search").fill("")
    page.locator("#sort").select_option("long")
    lengths = page.evaluate("matchingRows().map((row) => row.num_words)")
    assert lengths == sorted(lengths, reverse=True)
    page.locator("#twin").check()
    assert num_found() == page.evaluate("data.rows.filter((row) => row.twin).length")
    assert said == []


def test_the_suite_stands_in_the_page_only_when_it_was_run(chromium, tmp_path):
    cases = [Case("attack", FUNCTIONALITY, f"t{i}", "positive", f"{i} {ATTACK}", None)
             for i in range(12)]  # fmt: skip
    cases += [Case("names " * 9, INVARIANCE, "t", None, "Ida ate.", "Bo ate."),
              Case("more", DIRECTIONAL, "t", "negative", "Bad.", "Very bad."),
              Case("fine", INVARIANCE, "t", None, "Bad.", "Bad!")]  # fmt: skip
    suite = Suite("own <b>.toml", tuple(cases))
    first = np.array([0.1] * 12 + [0.9, 0.2, 0.3, 0.4, 0.2])
    found = judge(suite, ("positive", "negative"), 1.25, np.stack([first, 1 - first], 1))
    path, _, _ = make_report(tmp_path / "with", behaviour=found)
    page, said, _ = opened(chromium, path, viewport={"width": 390, "height": 844})
    rows = page.locator("#behaviour tbody tr")
    cells = [cell.strip() for cell in rows.nth(0).locator("td").all_inner_texts()]
    assert cells == ["attack", "0.0 %", "", "0 of 12", "0.0 % – 24.2 %", FUNCTIONALITY]
    assert rows.count() == 4 and page.locator("#failures .failed").count() == 3
    page.locator("#failures .failed summary").nth(0).click()
    assert "12 failed, 10 shown" in page.locator("#failures .failed summary").nth(0).inner_text()
    assert page.locator("#failures .failed").nth(0).locator("p").count() == 10
    text = page.locator("#failures .failed p").nth(0).inner_text()
    assert text.startswith("negative 90.0 %, not positive 0 </script>")
    page.locator("#failures .failed summary").nth(1).click()
    assert page.locator("#failures .failed p").nth(10).inner_text() == (
        "positive 90.0 % Ida ate.\nnegative 80.0 % Bo ate."
    )
    page.locator("#failures .failed summary").nth(2).click()
    assert page.locator("#failures .failed p").nth(11).inner_text() == (
        "negative 70.0 % Bad.\nnegative 60.0 % Very bad."
    )
    note = page.locator("#behaviour-note").inner_text()
    assert note.startswith("Suite own <b>.toml: 15 cases, 17 texts, scored in 1.3 s.")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    path, _, _ = make_report(tmp_path / "without")
    page, said_without, _ = opened(chromium, path)
    assert page.locator("#behaviour-section").count() == 0 and said == said_without == []


def test_near_duplicates_are_listed_beside_what_they_are_like(chromium, tmp_path):
    path, _, _ = make_report(tmp_path / "report")
    page, said, _ = opened(chromium, path, viewport={"width": 390, "height": 844})
    text = page.locator("#leakage").inner_text()
    assert "that duplicate training or evaluation rows: 290 exact, 3 near." in text
    assert "Evaluation rows that duplicate training rows: 2 exact, 3 near." in text
    page.locator("#leakage summary").click()
    pairs = page.locator("#leakage p").all_inner_texts()
    assert len(pairs) == 3
    assert pairs[0].startswith("75 % row 5, similar to training row 7:\nreview number 5 ")
    assert pairs[2].startswith("73 % row 3, similar to training row 7:\nnear </script><script>")
    assert all("\ntraining row 7: known 7 </script><script>" in pair for pair in pairs)
    begins = page.evaluate("data.begins")  # of those that are listed only
    assert [sorted(begins[split]) for split in ("test", "train")] == [["3", "4", "5"], ["7"]]
    assert page.evaluate("document.documentElement.scrollWidth") == 390 and said == []


def test_ratings_and_labels_to_look_at_stand_in_the_page_where_there_are_any(chromium, tmp_path):
    scores = make_scores(2600)
    ratings = by_rating("a <b>", [1.0, 2.5, None, 10.0] * 650, scores.truth == 0)
    issues = [LabelIssue(i, "positive", "negative <b>", 0.1, 0.95, "begin") for i in range(3, 253)]
    more = {"ratings": ratings, "label_issues": LabelIssues(issues, 2590, 10)}
    path, _, _ = make_report(tmp_path / "with", **more)
    page, said, _ = opened(chromium, path, viewport={"width": 390, "height": 844})
    assert page.locator("#ratings-title").inner_text() == "Accuracy by a <b>"
    cells = page.locator("#ratings tbody td:first-child").all_inner_texts()
    assert [cell.strip() for cell in cells] == ["1", "2.5", "10"]
    assert page.locator("#ratings-note").inner_text() == "Rows without a rating: 650."
    note = page.locator("#issues-note").inner_text()
    assert note.startswith("250 of 2,590 rows, by confident learning.")
    assert "not a verdict" in note and note.endswith(
        "Left out as seen in training or model selection: 10. Rows are numbered from 0, as in "
        "their source."
    )
    page.locator("#issues summary").click()
    shown = page.locator("#issues p").all_inner_texts()
    assert len(shown) == 200
    assert shown[0].startswith("positive → negative <b> 95.0 % row 3: near </script>")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    figures = json.loads(path.with_name("report.json").read_text(encoding="utf-8"))
    listed = figures["evaluation"]["label_issues"]
    assert listed["num_issues"] == 250 and "begin" not in listed["issues"][0]
    suggested = pd.read_parquet(path.with_name("predictions.parquet"))["suggested_label"]
    assert suggested.notna().sum() == 250 and suggested[3] == "negative <b>"
    path, _, _ = make_report(tmp_path / "without")
    page, said_without, _ = opened(chromium, path)
    assert page.locator("#ratings-section, #issues-section").count() == 0
    assert said == said_without == []


@pytest.mark.parametrize(
    ("kept", "expected"),
    [
        ([(9, 14)], ["8 characters were truncated", "seen\n", "4 characters were truncated"]),
        ([(0, 4), (10, 18)], ["head", "5 characters were truncated", "een\ntail"]),
        ([(0, 12)], ["head\ncut\nsee", "6 characters were truncated"]),
        ([(0, 17)], ["head\ncut\nseen\ntai", "1 character was truncated"]),
        ([], ["18 characters were truncated"]),
    ],
)
def test_line_breaks_are_shown_and_what_was_cut_is_folded_away(chromium, tmp_path, kept, expected):
    scores = make_scores(40)
    scores.truncated[:] = True
    text = "head<br />cut<BR>seen<br/>tail"
    found = embedded_rows(scores, Rows("a", [text] * 40, []), {}, lambda text: kept)
    assert {row["text"] for row in found} == {"head\ncut\nseen\ntail"}
    path, _, _ = make_report(tmp_path / "report")
    page, said, _ = opened(chromium, path)
    page.evaluate("row => at('rows').replaceChildren(entry(row))", found[0])
    page.locator(".row > summary").click()
    page.locator(".row > .soft").wait_for()
    parts = page.locator(".row > :not(summary)")
    shown = [part.evaluate("part => part.querySelector('summary')?.textContent ?? part.textContent")
             for part in parts.all()]  # fmt: skip
    assert [part.split(":")[0] for part in shown[:-1]] == expected and said == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_words_that_moved_an_error_are_marked(chromium, tmp_path, scheme):
    hostile = f"😀 {ATTACK}<br /><br>seen, <BR/>unseen"
    clean = hostile.replace("<br /><br>", "\n\n").replace("<BR/>", "\n")

    def explain(scores, texts):
        first, second = surest_errors(scores)[:2]
        scores.truncated[first] = True
        texts[first], texts[second] = hostile, "nothing here moved it"
        spans = [list(words_of(blank_line_breaks(texts[number]))) for number in (first, second)]
        contributions = [0.5] * len(spans[0])
        contributions[0], contributions[1], contributions[-2:] = 0.01, -2.0, [1.0, None]
        words = [Word(*span, c, True) for span, c in zip(spans[0], contributions, strict=True)]
        still = [Word(*span, 0.0, True) for span in spans[1]]
        rows = {
            int(first): Explanation("positive", 0.99, words),
            int(second): Explanation("positive", 0.98, still),
        }
        deletion = DeletionTest(2, 0.3, 0.1, (0.1, 0.3), "deletion test on 2 texts: <b> so and so")
        return ErrorExplanations(rows, len(surest_errors(scores)), deletion, 12.34)

    path, scores, _ = make_report(
        tmp_path / "with",
        explain=explain,
        kept=lambda text: [(0, len(clean) - 7)] if text == hostile else whole(text),
    )
    page, said, asked = opened(
        chromium, path, color_scheme=scheme, viewport={"width": 390, "height": 844}
    )
    told = page.locator("#explained").inner_text()
    assert f"The 2 most confident of {len(surest_errors(scores)):,} errors are explained." in told
    assert "Deletion test on 2 texts: <b> so and so. Explaining took 12.3 s" in told
    assert page.locator("#explained mark").count() == 2
    for number in range(3):
        page.locator(".row > summary").nth(number).click()
    text = page.locator(".row").nth(0).locator("p").first
    assert text.evaluate("p => p.textContent") == clean[:-7]  # not a character lost
    marks = text.locator("mark")
    shown = [(mark.inner_text(), mark.get_attribute("title")) for mark in marks.all()]
    words = clean.split()
    assert shown[0] == (words[1], "−2.00") and shown[-1] == ("seen,", "+1.00")
    assert [word for word, _ in shown] == words[1:-1]  # the emoji moved too little
    cut = page.locator(".row").nth(0).locator(".cut")
    assert cut.inner_text() == "6 characters were truncated: the model did not see them"
    cut.locator("summary").click()
    assert cut.locator("p").inner_text() == "unseen"
    assert text.locator("mark.against").count() == 1
    style = "mark => getComputedStyle(mark).backgroundColor"
    assert marks.first.evaluate(style) == "rgba(214, 96, 20, 0.6)"
    assert marks.last.evaluate(style) == "rgba(31, 98, 190, 0.3)"
    for number in (1, 2):  # one that no word moved, and one that was not explained
        assert page.locator(".row").nth(number).locator("mark").count() == 0
        assert page.locator(".row").nth(number).locator("p").first.inner_text()
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert (said, asked) == ([], [path.as_uri()])


def test_a_report_without_errors_says_that_there_are_none(chromium, tmp_path):
    path, _, _ = make_report(
        tmp_path / "none", explain=lambda scores, texts: ErrorExplanations({}, 0, None, 0.0)
    )
    page, said, _ = opened(chromium, path)
    assert page.locator("#explained").inner_text() == "No errors to explain." and said == []
    path, _, _ = make_report(tmp_path / "without")
    page, said, _ = opened(chromium, path)
    assert page.locator("#explained").inner_text() == "" and said == []


def test_both_themes_and_a_phone(chromium, tmp_path):
    path, _, _ = make_report(tmp_path / "report")
    backs = {}
    for scheme in ("light", "dark"):
        page, said, _ = opened(
            chromium, path, color_scheme=scheme, viewport={"width": 390, "height": 844}
        )
        style = "getComputedStyle(document.body).backgroundColor"
        backs[scheme] = page.evaluate(style)
        page.locator("#theme").click()
        other = page.evaluate(style)
        page.locator("#theme").click()
        assert page.evaluate(style) == backs[scheme] != other
        assert page.evaluate("document.documentElement.scrollWidth") == 390  # nothing sticks out
        assert said == []
    assert backs["light"] != backs["dark"]
