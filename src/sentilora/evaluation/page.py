"""The report of an evaluation: one HTML file that needs nothing else, its figures, all predictions.

DIR/report.html            the page: opens from disk, without a network
DIR/report.json            its figures
DIR/predictions.parquet    every test row, with the answers of every model
"""

import html
import json
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from sentilora.data.rows import Rows
from sentilora.data.text import beginning, blank_line_breaks, clean_text
from sentilora.errors import Interrupted, SentiloraError
from sentilora.evaluation.findings import Evaluation, RowScores, surest_errors, temperature_of
from sentilora.evaluation.leakage import Twin
from sentilora.metrics import coverage_curve, measure_group, reliability
from sentilora.scoring.answers import at_temperature
from sentilora.scoring.explain import words_of
from sentilora.shipped import adapter_name, report_template
from sentilora.wording import counted

PAGE, FIGURES, PREDICTIONS = "report.html", "report.json", "predictions.parquet"
MAX_ROWS = 2000  # in the page
MAX_ERRORS = 1500  # of them
MAX_LISTED = 200  # duplicates, and label issues, in the figures
BEGIN = 300  # characters of their texts in the page
NUM_POINTS = 200  # of the coverage curve
ROWS_AT_ONCE = 50_000
Kept = Callable[[str], Sequence[tuple[int, int]]]


def write_report(
    folder: Path,
    result: Evaluation,
    scores: RowScores,
    rows: Rows,
    history: Sequence[Mapping[str, Any]],
    recipe: str,
    made: Mapping[str, str],
    kept: Kept,
    known: Mapping[str, Rows],
) -> Path:
    """Write the three files; returns the page's path.

    history: the lines of the run's `metrics.jsonl`. recipe: its `sentilora.toml`. made: from which
    rows and with what it was made, for the reader. kept: the parts of a clean text that the model
    sees, see `Prompt`. known: the splits that duplicates were looked for in, by name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    twins = {twin.number: twin for twin in result.leakage.twins} if result.leakage else {}
    evaluation = _evaluation(result)
    figures = {
        "title": adapter_name(result.adapter_path) if result.adapter_path else result.base_name,
        "created": date.today().isoformat(),
        "evaluation": evaluation,
        "reliability": [asdict(found) for found in reliability(scores.best, scores.truth)],
        "coverage": coverage_points(scores.best, scores.truth),
        "groups": groups(scores, rows.texts),
        "training": [_finite(entry) for entry in history],
        "recipe": recipe,
        "made": dict(made),
    }
    text = json.dumps(figures, indent=1, ensure_ascii=False, allow_nan=False)
    content: dict[str, Any] = {
        **figures,
        "evaluation": {**evaluation, "explained": explained_clean(evaluation, rows)},
        "rows": embedded_rows(scores, rows, twins, kept),
        "begins": begins(evaluation, {"test": rows, **known}),
        "temperature": temperature_of(result),
    }
    with tempfile.TemporaryDirectory(prefix=".", dir=folder) as unfinished:  # no half file is left
        part = Path(unfinished)
        (part / FIGURES).write_text(text + "\n", encoding="utf-8")
        write_predictions(part / PREDICTIONS, result, scores, rows, twins)
        (part / PAGE).write_text(as_page(content), encoding="utf-8")
        for name in (FIGURES, PREDICTIONS, PAGE):
            (part / name).replace(folder / name)
    return folder / PAGE


def as_page(content: Mapping[str, Any]) -> str:
    """The page with its data inside; no text of a review can end the element that holds it."""
    template = report_template()
    data = json.dumps(content, ensure_ascii=False, allow_nan=False)
    for character, escaped in (("<", "\\u003c"), ("\u2028", "\\u2028"), ("\u2029", "\\u2029")):
        data = data.replace(character, escaped)
    title = html.escape(f"sentilora: {content['title']}")
    template = template.replace("<title>Evaluation</title>", f"<title>{title}</title>")
    return template.replace("/*DATA*/", data.encode("utf-8", "replace").decode("utf-8"))


def coverage_points(probabilities: np.ndarray, truth: np.ndarray) -> list[dict[str, float]]:
    """The coverage curve at up to 200 places, the last of them at full coverage."""
    threshold, accuracy = coverage_curve(probabilities, truth)
    num = len(threshold)
    # The first hundredth, of a few rows, jumps without meaning.
    at = np.unique(np.linspace(min(num - 1, max(10, num // 100)), num - 1, NUM_POINTS).astype(int))
    return [
        {
            "threshold": float(threshold[i]),
            "coverage": (int(i) + 1) / num,
            "accuracy": float(accuracy[i]),
        }
        for i in at
    ]


def groups(scores: RowScores, texts: Sequence[str]) -> list[dict[str, Any]]:
    """Accuracy of rows by number of words (fifths), and of those that were cut and were not."""
    words = np.array([len(text.split()) for text in texts])
    right = scores.best.argmax(-1) == scores.truth
    edges = np.unique(np.quantile(words, [0.2, 0.4, 0.6, 0.8], method="nearest"))
    found = []
    for low, high in zip([0, *(edges + 1)], [*edges, words.max()], strict=True):
        name = counted(high, "word")
        if low < high:
            name = f"{low:,} – {name}" if low else f"up to {name}"
        found.append((name, (words >= low) & (words <= high)))
    found += [("whole", ~scores.truncated), ("truncated", scores.truncated)]
    return [asdict(measure_group(name, right[chosen])) for name, chosen in found if chosen.any()]


def begins(evaluation: Mapping[str, Any], splits: Mapping[str, Rows]) -> dict[str, dict[int, str]]:
    """How the texts of the listed duplicates and label issues begin, by split and row number."""
    leakage, issues = evaluation["leakage"] or {}, evaluation["label_issues"] or {}
    near = [twin for twin in leakage.get("twins", ()) if not twin["is_exact"]]
    listed = {("test", found["number"]) for found in [*near, *issues.get("issues", ())]}
    listed |= {(twin["split"], twin["other"]) for twin in near}
    return {
        split: {
            number: beginning(text, BEGIN)
            for number, text in texts_of(rows, {n for s, n in listed if s == split}).items()
        }
        for split, rows in splits.items()
    }


def texts_of(rows: Rows, numbers: Collection[int]) -> dict[int, str]:
    """The texts of a few rows, by row number."""
    numbered = zip(rows.numbers, rows.texts, strict=True)
    return {number: text for number, text in numbered if number in numbers}


def explained_clean(evaluation: Mapping[str, Any], rows: Rows) -> dict[str, Any] | None:
    """The explanations with their words where `clean_text` has them, which the page shows."""
    if (explained := evaluation["explained"]) is None:
        return None
    texts = texts_of(rows, explained["rows"])
    found = {}
    for number, row in explained["rows"].items():
        # The same words in both: only what is between them differs.
        spans = (words_of(clean(texts[number])) for clean in (blank_line_breaks, clean_text))
        moved = dict(zip(*spans, strict=True))
        words = [(*moved[start, end], *rest) for start, end, *rest in row["words"]]
        found[number] = {**row, "words": words}
    return {**explained, "rows": found}


def embedded_rows(
    scores: RowScores, rows: Rows, twins: Mapping[int, Twin], kept: Kept
) -> list[dict[str, Any]]:
    """The surest errors, then the most uncertain rows: what the page can show.

    The less an answer is ahead of the next label, the more uncertain: of two labels and of twenty.
    Their texts are clean, as the prompt has them; of those that were cut, what the model sees.
    """
    next_to_best, best = np.partition(scores.best, (-2, -1))[:, -2:].T
    lead = best - next_to_best
    errors = surest_errors(scores)[:MAX_ERRORS]
    rest = np.setdiff1d(np.argsort(lead, kind="stable")[: 2 * MAX_ROWS], errors)
    rest = rest[np.argsort(lead[rest], kind="stable")][: MAX_ROWS - len(errors)]
    return [
        {
            "number": rows.numbers[i],
            "text": clean_text(rows.texts[i]),
            "truth": int(scores.truth[i]),
            "predicted": int(scores.best[i].argmax()),
            "probabilities": [round(float(p), 6) for p in scores.best[i]],
            **({} if scores.adapter is None else {"base": int(scores.base[i].argmax())}),
            **({} if scores.baseline is None else {"baseline": int(scores.baseline[i].argmax())}),
            "truncated": bool(scores.truncated[i]),
            **({"kept": list(kept(rows.texts[i]))} if scores.truncated[i] else {}),
            "num_words": len(rows.texts[i].split()),
            "twin": asdict(twins[rows.numbers[i]]) if rows.numbers[i] in twins else None,
        }
        for i in [*errors, *rest]
    ]


def write_predictions(
    path: Path,
    result: Evaluation,
    scores: RowScores,
    rows: Rows,
    twins: Mapping[int, Twin],
) -> None:
    """Every row: its number, text, label, and per model its answer and probabilities.

    Where a temperature helps, the adapter's at that temperature too, and where a threshold was
    found, whether `predict` would abstain.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    labels, issues = result.labels, result.label_issues
    suggested = {x.number: x.suggested for x in issues.issues} if issues else {}
    named = {"": scores.adapter, "base_": scores.base, "tfidf_": scores.baseline}
    if scores.adapter is None:
        named = {"": scores.base}
    temperature = temperature_of(result)
    writer = None
    for start in range(0, len(rows), ROWS_AT_ONCE):
        part = slice(start, min(start + ROWS_AT_ONCE, len(rows)))
        numbers = rows.numbers[part]
        found = [twins.get(number) for number in numbers]
        columns: dict[str, Any] = {
            "row": np.array(numbers),
            "text": rows.texts[part],
            "label": rows.labels[part],
        }
        for prefix, probabilities in named.items():
            if probabilities is None:
                continue
            columns[f"{prefix}prediction"] = [labels[i] for i in probabilities[part].argmax(-1)]
            for number, label in enumerate(labels):
                columns[f"{prefix}probability_{label}"] = probabilities[part, number]
        if scores.adapter is not None:
            given = scores.adapter[part]
            if temperature is not None:
                with np.errstate(divide="ignore"):  # log 0 stays 0
                    given = at_temperature(np.log(given), temperature)
                for number, label in enumerate(labels):
                    columns[f"calibrated_probability_{label}"] = given[:, number]
            if result.abstention is not None and result.abstention.reached:
                columns["abstained"] = given.max(-1) < result.abstention.threshold.confidence
        columns["truncated"] = scores.truncated[part]
        columns["twin_split"] = pa.array([twin and twin.split for twin in found], pa.string())
        columns["twin_row"] = pa.array([twin and twin.other for twin in found], pa.int64())
        similarity = [twin and twin.similarity for twin in found]
        columns["twin_similarity"] = pa.array(similarity, pa.float64())
        if issues is not None:
            likelier = [suggested.get(number) for number in numbers]
            columns["suggested_label"] = pa.array(likelier, pa.string())
        table = pa.table(columns)
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    if writer is not None:
        writer.close()


def _evaluation(result: Evaluation) -> dict[str, Any]:
    leakage, issues = result.leakage, result.label_issues
    if leakage is not None:  # near ones first: the exact are no surprise
        twins = sorted(leakage.twins, key=lambda twin: (twin.is_exact, -twin.similarity))
        leakage = replace(leakage, twins=twins[:MAX_LISTED])
    if issues is not None:
        issues = replace(issues, issues=issues.issues[:MAX_LISTED])
    content = asdict(replace(result, leakage=leakage, label_issues=issues))
    if result.label_issues is not None:
        content["label_issues"]["num_issues"] = len(result.label_issues.issues)
        for issue in content["label_issues"]["issues"]:
            del issue["begin"]  # no text of a review
    return content


def _finite(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if value == value}  # NaN equals nothing


@contextmanager
def report_errors(folder: str | Path, evaluation: Any) -> Iterator[None]:
    """What ends explaining errors and writing a report; the evaluation made before is not lost."""
    try:
        yield
    except (OSError, KeyboardInterrupt) as error:
        failed = SentiloraError(f"cannot write the report to {folder}: {error}")
        if isinstance(error, KeyboardInterrupt):
            failed = Interrupted(f"interrupted; there is no report in {folder}")
        failed.evaluation = evaluation
        raise failed from error
