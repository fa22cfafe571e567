"""The report of an evaluation: a self-contained HTML page, its figures, and all predictions.

DIR/report.html            the page: opens from disk, without a network
DIR/report.json            its figures
DIR/predictions.parquet    every test row, with the answers of every model
"""

import html
import json
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from sentilora.data.rows import Rows
from sentilora.data.text import Item, beginning, blank_line_breaks, clean_text
from sentilora.errors import Interrupted, SentiloraError
from sentilora.evaluation.findings import Evaluation, RowScores, surest_errors, temperature_of
from sentilora.evaluation.label_figures import most_frequent_confusions
from sentilora.evaluation.leakage import Twin
from sentilora.evaluation.predictions import write_predictions
from sentilora.metrics import coverage_curve, measure_group, reliability
from sentilora.scoring.explain import words_of
from sentilora.shipped import adapter_name, report_template
from sentilora.wording import as_p, counted, quoted

PAGE, FIGURES, PREDICTIONS = "report.html", "report.json", "predictions.parquet"
MAX_ROWS = 2000  # in the page
MAX_ERRORS = 1500  # among them
MAX_LISTED = 200  # duplicates, and label issues, in the figures
NUM_CHARACTERS = 300  # of their texts, in the page
NUM_CONFUSIONS = 20  # shown instead of the matrix of many labels
NUM_POINTS = 200  # of the coverage curve


@dataclass(frozen=True)
class Provenance:
    """Where an evaluation comes from, for the reader of its report.

    history: the lines of the run's `metrics.jsonl`. recipe: its `sentilora.toml`; empty without
    one. details: data, base, machine and versions, in words.
    """

    history: Sequence[Mapping[str, Any]]
    recipe: str
    details: Mapping[str, str]


def write_report(
    folder: Path,
    result: Evaluation,
    scores: RowScores,
    rows: Rows,
    provenance: Provenance,
    visible_parts: Callable[[Item], Sequence[tuple[int, int]]],
    known: Mapping[str, Rows],
) -> Path:
    """Write the three files, or none of them; returns the page's path.

    visible_parts: (start, end) of the parts of a row's clean text that the model sees, see
    `Prompt.spans`. known: the splits that were searched for duplicates, by name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    twins = {twin.number: twin for twin in result.leakage.twins} if result.leakage else {}
    figures = figures_of(result, scores, rows, provenance)
    evaluation = figures["evaluation"]
    content = {
        **figures,
        "evaluation": {**evaluation, "explained": explained_clean(evaluation, rows)},
        "rows": embedded_rows(scores, rows, twins, visible_parts),
        "begins": begins(evaluation, {"test": rows, **known}),
        "temperature": temperature_of(result),
        **_sentences(result),
        "confusions": [
            asdict(pair)
            for pair in most_frequent_confusions(
                result.labels, (result.adapter or result.base).confusion, NUM_CONFUSIONS
            )
        ],
    }
    text = json.dumps(figures, indent=1, ensure_ascii=False, allow_nan=False)
    with tempfile.TemporaryDirectory(prefix=".", dir=folder) as unfinished:
        part = Path(unfinished)
        (part / FIGURES).write_text(text + "\n", encoding="utf-8")
        write_predictions(part / PREDICTIONS, result, scores, rows, twins)
        (part / PAGE).write_text(as_page(content), encoding="utf-8")
        for name in (FIGURES, PREDICTIONS, PAGE):
            (part / name).replace(folder / name)
    return folder / PAGE


def _sentences(result: Evaluation) -> dict[str, dict[str, str]]:
    """Each comparison's p-value and, where interval and test disagree, why, as everywhere else."""
    comparisons = result.comparisons.items()
    return {
        "p_values": {name: as_p(comparison.p) for name, comparison in comparisons},
        "disagreements": {
            name: comparison.disagreement
            for name, comparison in comparisons
            if comparison.disagreement
        },
    }


def as_page(content: Mapping[str, Any]) -> str:
    """The page with its data inside; no row's text can close the element that holds it."""
    template = report_template()
    data = json.dumps(content, ensure_ascii=False, allow_nan=False)
    for character, escaped in (("<", "\\u003c"), ("\u2028", "\\u2028"), ("\u2029", "\\u2029")):
        data = data.replace(character, escaped)
    title = html.escape(f"sentilora: {content['title']}")
    template = template.replace("<title>Evaluation</title>", f"<title>{title}</title>")
    return template.replace("/*DATA*/", data.encode("utf-8", "replace").decode("utf-8"))


# --- figures -------------------------------------------------------------------------------------


def figures_of(
    result: Evaluation, scores: RowScores, rows: Rows, provenance: Provenance
) -> dict[str, Any]:
    """What `report.json` holds: no text of any row."""
    return {
        "title": adapter_name(result.adapter_path) if result.adapter_path else result.base_name,
        "created": date.today().isoformat(),
        "evaluation": _short_evaluation(result),
        "reliability": [asdict(b) for b in reliability(scores.best, scores.truth)],
        "coverage": coverage_points(scores.best, scores.truth),
        "groups": groups(scores, rows.texts),
        "training": [_finite(entry) for entry in provenance.history],
        "recipe": provenance.recipe,
        "made": dict(provenance.details),
    }


def _short_evaluation(result: Evaluation) -> dict[str, Any]:
    """The evaluation as a dictionary, with the first of its duplicates and label issues."""
    leakage, issues = result.leakage, result.label_issues
    if leakage is not None:  # near-duplicates first: exact ones are no surprise
        twins = sorted(leakage.twins, key=lambda twin: (twin.is_exact, -twin.similarity))
        leakage = replace(leakage, twins=twins[:MAX_LISTED])
    if issues is not None:
        issues = replace(issues, issues=issues.issues[:MAX_LISTED])
    content = asdict(replace(result, leakage=leakage, label_issues=issues))
    if result.label_issues is not None:
        content["label_issues"]["num_issues"] = len(result.label_issues.issues)
        for issue in content["label_issues"]["issues"]:
            del issue["begin"]  # text of a row
    return content


def _finite(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if value == value}  # NaN equals nothing


def coverage_points(probabilities: np.ndarray, truth: np.ndarray) -> list[dict[str, float]]:
    """Up to `NUM_POINTS` points of the coverage–accuracy curve, the last at full coverage."""
    threshold, accuracy = coverage_curve(probabilities, truth)
    num = len(threshold)
    # The first hundredth is of so few rows that its jumps mean nothing.
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
    """Accuracy by number of words, in fifths of the rows, and for whole and truncated texts."""
    words = np.array([len(text.split()) for text in texts])
    edges = np.unique(np.quantile(words, [0.2, 0.4, 0.6, 0.8], method="nearest"))
    members = []
    for low, high in zip([0, *(edges + 1)], [*edges, words.max()], strict=True):
        name = counted(high, "word")
        if low < high:
            name = f"{low:,} – {name}" if low else f"up to {name}"
        members.append((name, (words >= low) & (words <= high)))
    members += [("whole", ~scores.truncated), ("truncated", scores.truncated)]
    correct = scores.correct
    return [asdict(measure_group(name, correct[is_in])) for name, is_in in members if is_in.any()]


# --- texts of rows -------------------------------------------------------------------------------


def begins(evaluation: Mapping[str, Any], splits: Mapping[str, Rows]) -> dict[str, dict[int, str]]:
    """The first characters of the near-duplicates and label issues, by split and row number."""
    leakage, issues = evaluation["leakage"] or {}, evaluation["label_issues"] or {}
    near = [twin for twin in leakage.get("twins", ()) if not twin["is_exact"]]
    places = {("test", row["number"]) for row in [*near, *issues.get("issues", ())]}
    places |= {(twin["split"], twin["other"]) for twin in near}
    return {
        split: {
            number: beginning(text, NUM_CHARACTERS)
            for number, text in texts_of(rows, {n for s, n in places if s == split}).items()
        }
        for split, rows in splits.items()
    }


def texts_of(rows: Rows, numbers: Collection[int]) -> dict[int, str]:
    """The texts of the rows with these numbers, by number."""
    numbered = zip(rows.numbers, rows.texts, strict=True)
    return {number: text for number, text in numbered if number in numbers}


def explained_clean(evaluation: Mapping[str, Any], rows: Rows) -> dict[str, Any] | None:
    """The explanations, with words positioned in the clean text, which is what the page shows."""
    if (explained := evaluation["explained"]) is None:
        return None
    texts = texts_of(rows, explained["rows"])
    clean_rows = {}
    for number, row in explained["rows"].items():
        # Both versions have the same words: only what is between them differs.
        spans = (words_of(clean(texts[number])) for clean in (blank_line_breaks, clean_text))
        clean_span = dict(zip(*spans, strict=True))
        words = [(*clean_span[start, end], *rest) for start, end, *rest in row["words"]]
        clean_rows[number] = {**row, "words": words}
    return {**explained, "rows": clean_rows}


def embedded_rows(
    scores: RowScores,
    rows: Rows,
    twins: Mapping[int, Twin],
    visible_parts: Callable[[Item], Sequence[tuple[int, int]]],
) -> list[dict[str, Any]]:
    """The rows in the page: the surest errors, then the most uncertain rows.

    A row is more uncertain the smaller its answer's lead over the next label, be it of two labels
    or of twenty. Texts are clean, as in the prompt; truncated ones have the parts that the model
    sees.
    """
    next_to_best, best = np.partition(scores.best, (-2, -1))[:, -2:].T
    lead = best - next_to_best
    errors = surest_errors(scores)[:MAX_ERRORS]
    rest = np.setdiff1d(np.argsort(lead, kind="stable")[: 2 * MAX_ROWS], errors)
    rest = rest[np.argsort(lead[rest], kind="stable")][: MAX_ROWS - len(errors)]
    inputs = rows.inputs
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
            **({"kept": list(visible_parts(inputs[i]))} if scores.truncated[i] else {}),
            "num_words": len(rows.texts[i].split()),
            "twin": asdict(twins[rows.numbers[i]]) if rows.numbers[i] in twins else None,
        }
        for i in [*errors, *rest]
    ]


# --- errors --------------------------------------------------------------------------------------


@contextmanager
def report_errors(folder: str | Path, evaluation: Evaluation) -> Iterator[None]:
    """Turns what stops a report into an error of ours that carries the evaluation before it."""
    try:
        yield
    except OSError as error:
        failure = SentiloraError(f"cannot write the report to {quoted(folder)}: {error}")
        failure.evaluation = evaluation
        raise failure from error
    except KeyboardInterrupt as error:
        interruption = Interrupted(f"interrupted: there is no report in {quoted(folder)}")
        interruption.evaluation = evaluation
        raise interruption from error
