"""Measure on test rows: the adapter, its base without it, and TF-IDF on the same labels.

sentilora evaluate --adapter ./mistral-sentiment-ita
"""

import hashlib
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from sentilora.adapter_folder import (
    CLASSIFIER_FILE,
    Calibration,
    ClassifierFile,
    check_adapter_folder,
)
from sentilora.behaviour import judge
from sentilora.calibration import (
    ABSTAIN,
    MIN_ROWS,
    at_temperature,
    choose_temperature,
    choose_threshold,
)
from sentilora.classifier import Classifier
from sentilora.config import CONFIG_FILE, Config, load_config, read_config
from sentilora.data import Rows
from sentilora.errors import DataError, UsageError
from sentilora.explain import deletion_test, explain
from sentilora.label_issues import look_for_label_issues
from sentilora.leakage import TwinIndex
from sentilora.metrics import compare, measure_fully, tfidf_baseline
from sentilora.model import shipped_adapter
from sentilora.progress import Progress, say
from sentilora.prompt import PromptFormat
from sentilora.report import (
    Abstention,
    Calibrated,
    Evaluation,
    Explained,
    Leakage,
    RowScores,
    by_rating,
    surest_errors,
    verdict,
)
from sentilora.report_page import write_report
from sentilora.run_folder import (
    DATA_FILE,
    data_record,
    read_metrics,
    require_same_rows,
    require_unused,
    seen_rows,
)
from sentilora.stages import load_rows_of, load_test_of, prompt_format_of
from sentilora.stages.env import versions
from sentilora.suite import Suite, load_suite

ROWS_AT_ONCE = 4096  # encoded and scored together: memory does not grow with the rows
MAX_EXPLAINED = 50  # errors, in a report: half a minute to two and a half on two CPU cores
# Near-duplicates among more are looked for only when asked: a text of 230 words takes 0.36 ms and,
# when it was trained on, 6.2 KiB (CPU, 10,000 texts, 2026-11-25).
MAX_ROWS_NEAR = 200_000


def evaluate(
    adapter: str | Path | None = None,
    *,
    base: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    target_accuracy: float | None = None,
    report: str | Path | None = None,
    suite: str | Path | None = None,
    label_issues: bool = False,
    near_duplicates: bool = False,
    device: str = "auto",
    batch_size: int = 16,
) -> Evaluation:
    """Score the test rows with an adapter, with its base alone, and with a baseline.

    adapter: a run folder; None takes the shipped adapter. base: score this base, without any
    adapter. overrides: {"section.key": value} laid over the configuration the adapter was trained
    with; `data.test` names other rows. target_accuracy: choose a threshold on the evaluation rows
    above which the classifier is that accurate. A temperature or threshold that holds is written to
    the adapter's `classifier.json`. report: a new folder for the files of `report_page`. suite:
    "sentiment", or a file of behaviour tests, see `suite`. label_issues: look for probable label
    errors. near_duplicates: look for them among more than 200,000 rows too. Raises `DataError` and
    `UsageError`, see `errors`.
    """
    if base is not None and adapter is not None:
        raise UsageError("--base scores a base without adapter; leave out --adapter")
    if target_accuracy is not None and not 0 < target_accuracy < 1:
        raise UsageError(f"--target-accuracy is {target_accuracy:g}; give a number such as 0.98")
    if target_accuracy is not None and base is not None:
        raise UsageError("--target-accuracy goes with an adapter")
    if report is not None:
        require_unused(Path(report), "--report", "")
    folder = None if base is not None else Path(adapter or shipped_adapter())
    config, format = settings_of(folder, overrides or {})
    tests = None if suite is None else load_suite(suite)
    if tests is not None:
        tests.require_labels(format.labels)
    history = read_metrics(run_of(folder)) if folder is not None and report is not None else []
    rows = load_test_of(config, format.labels)
    if len(set(rows.labels)) < len(format.labels):
        missing = [label for label in format.labels if label not in rows.labels]
        say(f"warning: no test row is {', '.join(missing)}; macro-F1 is over the labels that occur")
    if folder is None:
        assert base is not None
        classifier = Classifier.from_base(base, format, device=device, batch_size=batch_size)
        result, scores = measure_rows(classifier, rows)
    else:
        warn_of_seen_rows(folder, rows, format.labels)
        known, reason = known_rows(folder, config)
        classifier = Classifier.load(folder, device=device, batch_size=batch_size)
        result, scores = measure_rows(
            classifier, rows, str(folder), known, target_accuracy, near_duplicates
        )
        if known is None:
            result = replace(result, missing=[reason, *result.missing])
    right = scores.best.argmax(-1) == scores.truth
    result = replace(result, ratings=by_rating(rows.rating_column, rows.ratings, right))
    if label_issues:
        result = with_label_issues(result, scores, rows)
    if tests is not None:
        result = with_behaviour(result, classifier, tests)
    if folder is not None and adapter is not None:
        store_calibration(folder, result)
    if report is not None:
        result = with_explanations(result, classifier, rows, scores)
        report_on(report, result, scores, rows, folder, classifier, history)
    return result


def settings_of(folder: Path | None, overrides: Mapping[str, Any]) -> tuple[Config, PromptFormat]:
    """Configuration and prompt that belong to an adapter folder (None: the defaults)."""
    other = [key for key in overrides if not key.startswith("data.")]
    if other:
        raise UsageError(
            f"evaluate takes the data.* settings only, not {other[0]!r}: prompt and base belong to "
            "the adapter"
        )
    if folder is None:
        config = load_config(values=overrides)
        return config, prompt_format_of(config)
    check_adapter_folder(folder)
    if not (folder / CLASSIFIER_FILE).is_file():
        raise UsageError(
            f"{folder} has no {CLASSIFIER_FILE}: evaluate knows neither its labels nor its prompt"
        )
    run = run_of(folder)
    if (run / CONFIG_FILE).is_file():
        config = read_config(run / CONFIG_FILE)
    elif "data.test" in overrides:
        config = load_config()
    else:
        raise UsageError(f"{folder} has no {CONFIG_FILE} that names test rows; give data.test=…")
    return config.with_values(overrides), ClassifierFile.load(folder).prompt


def run_of(folder: Path) -> Path:
    """The run folder of an adapter: itself, for a checkpoint the one above."""
    return folder.absolute().parent if folder.name.startswith("checkpoint-") else folder


def warn_of_seen_rows(folder: Path, rows: Rows, labels: Sequence[str]) -> None:
    """Say how many test rows the adapter was trained or chosen on."""
    seen = {name: count for name, count in seen_rows(run_of(folder), rows, labels).items() if count}
    if seen:
        parts = " and ".join(f"{count:,} among its {name} rows" for name, count in seen.items())
        say(
            f"warning: of the {len(rows):,} test rows {parts}: what it does with those says "
            "little about unseen text; give other rows with data.test=…"
        )


def known_rows(folder: Path, config: Config) -> tuple[tuple[Rows, Rows] | None, str]:
    """Training and evaluation rows of an adapter's run, or None and why they cannot be had."""
    what = "no baseline, no calibration, no search for duplicates"
    run = run_of(folder)
    if not (run / CONFIG_FILE).is_file() or not (run / DATA_FILE).is_file():
        return None, f"{what}: {run} does not say which rows it was trained on"
    try:
        train, evaluation = load_rows_of(config)
        require_same_rows(run, data_record({"train": train, "evaluation": evaluation}))
    except (DataError, UsageError) as error:
        return None, f"{what}: {error}"
    return (train, evaluation), ""


# --- measuring -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scores:
    """Log-probabilities of the labels, (rows, labels), and which rows were cut to fit."""

    adapter: np.ndarray | None
    base: np.ndarray
    truncated: np.ndarray


def measure_rows(
    classifier: Classifier,
    rows: Rows,
    adapter_path: str | None = None,
    known: tuple[Rows, Rows] | None = None,
    target_accuracy: float | None = None,
    near_duplicates: bool = False,
) -> tuple[Evaluation, RowScores]:
    """Score rows with a loaded classifier: adapter on, then (if it has one) off.

    known: the adapter's training and evaluation rows.
    """
    truth = numbers_of(rows, classifier.labels)
    scores = score(classifier, rows, "scoring", adapter_path is not None)
    of_base = at_temperature(scores.base, 1.0)
    of_rows = RowScores(truth, None, of_base, None, scores.truncated)
    result = Evaluation(
        test=rows.source,
        num_rows=len(rows),
        num_truncated=int(scores.truncated.sum()),
        labels=classifier.labels,
        adapter_path=adapter_path,
        base_name=classifier.reference.name,
        base=measure_fully(of_base, truth),
    )
    if scores.adapter is None:
        return result, of_rows
    probabilities = at_temperature(scores.adapter, 1.0)
    right = probabilities.argmax(-1) == truth
    result = replace(result, adapter=measure_fully(probabilities, truth))
    result.comparisons["base"] = compare(right, scores.base.argmax(-1) == truth)
    of_rows = replace(of_rows, adapter=probabilities)
    if known is None:
        return replace(result, verdict=verdict(result)), of_rows
    train, evaluation = known
    guessed = tfidf_baseline(
        train.texts, numbers_of(train, classifier.labels), rows.texts, len(classifier.labels)
    )
    result.comparisons["baseline"] = compare(right, guessed.argmax(-1) == truth)
    result = replace(result, baseline=measure_fully(guessed, truth))
    seen = len(set(evaluation.hashes()) & set(rows.hashes()))
    if seen > len(evaluation) / 2:
        calibrated, abstention = None, None
        reasons = [f"no calibration: {seen:,} evaluation rows are among the test rows"]
    else:
        calibrated, abstention, reasons = calibrate(
            classifier, evaluation, scores.adapter, truth, target_accuracy
        )
    result = replace(
        result,
        verdict=verdict(result),
        calibrated=calibrated,
        abstention=abstention,
        leakage=look_for_leakage(rows, known, probabilities, truth, near_duplicates),
        missing=reasons,
    )
    return result, replace(of_rows, baseline=guessed)


def numbers_of(rows: Rows, labels: Sequence[str]) -> np.ndarray:
    """The rows' labels as numbers."""
    numbers = {label: number for number, label in enumerate(labels)}
    return np.array([numbers[label] for label in rows.labels])


def score(classifier: Classifier, rows: Rows, description: str, has_adapter: bool) -> Scores:
    """One forward pass per row and model; `has_adapter`: with it and without it."""
    adapter, base, truncated = [], [], []
    without_adapter = classifier.adapter_disabled if has_adapter else nullcontext
    with Progress(description, len(rows) * (1 + has_adapter)) as progress:
        for start in range(0, len(rows), ROWS_AT_ONCE):
            texts = rows.texts[start : start + ROWS_AT_ONCE]
            prompts = [classifier.prompter.encode(text) for text in texts]
            ids = [prompt.input_ids for prompt in prompts]
            truncated += [prompt.truncated for prompt in prompts]
            if has_adapter:
                adapter.append(classifier.scorer.log_probs(ids, progress.advance).numpy())
            with without_adapter():
                base.append(classifier.scorer.log_probs(ids, progress.advance).numpy())
    return Scores(
        np.concatenate(adapter) if has_adapter else None, np.concatenate(base), np.array(truncated)
    )


def calibrate(
    classifier: Classifier,
    evaluation: Rows,
    test_log_probs: np.ndarray,
    truth: np.ndarray,
    target_accuracy: float | None,
) -> tuple[Calibrated | None, Abstention | None, list[str]]:
    """Temperature and threshold of the evaluation rows, on the test rows; or why there is none."""
    if len(evaluation) < MIN_ROWS:
        return None, None, [
            f"no calibration{' and no threshold' if target_accuracy else ''}: there are "
            f"{len(evaluation)} evaluation rows, and fewer than {MIN_ROWS} say too little; raise "
            "data.num_evaluation"
        ]  # fmt: skip
    eval_truth = numbers_of(evaluation, classifier.labels)
    with Progress("scoring evaluation rows", len(evaluation)) as progress:
        prompts = [classifier.prompter.encode(text).input_ids for text in evaluation.texts]
        log_probs = classifier.scorer.log_probs(prompts, progress.advance).numpy()
    temperature = choose_temperature(log_probs, eval_truth)
    used = temperature.value if temperature.helps else 1.0
    calibrated = Calibrated(
        temperature,
        len(evaluation),
        measure_fully(at_temperature(test_log_probs, temperature.value), truth),
    )
    if target_accuracy is None:
        return calibrated, None, []
    threshold = choose_threshold(at_temperature(log_probs, used), eval_truth, target_accuracy)
    probabilities = at_temperature(test_log_probs, used)
    covered = probabilities.max(-1) >= threshold.confidence
    right = probabilities.argmax(-1) == truth
    abstention = Abstention(
        threshold,
        int(covered.sum()),
        float(right[covered].mean()) if covered.any() else None,
    )
    return calibrated, abstention, []


def look_for_leakage(
    rows: Rows,
    known: tuple[Rows, Rows],
    probabilities: np.ndarray,
    truth: np.ndarray,
    near_duplicates: bool,
) -> Leakage:
    """Twins of the test rows among the rows trained and chosen on, and the score without them."""
    train, evaluation = known
    total = len(train) + len(evaluation) + len(rows)
    near = near_duplicates or total <= MAX_ROWS_NEAR
    if not near:
        say(
            f"near-duplicates are not looked for among more than {MAX_ROWS_NEAR:,} rows (here "
            f"{total:,}): minutes, and 6 KiB of memory a training row; --near-duplicates does"
        )
    with Progress("looking for duplicates", total + len(evaluation)) as progress:
        index = TwinIndex(near, progress.advance)
        index.add("train", train.texts)
        of_evaluation = index.twins_of(evaluation.texts)
        index.add("evaluation", evaluation.texts)
        twins = index.twins_of(rows.texts)
    alone = np.ones(len(rows), bool)
    alone[[twin.number for twin in twins]] = False
    num_exact = sum(twin.is_exact for twin in twins)
    return Leakage(
        twins=twins,
        num_exact=num_exact,
        num_near=len(twins) - num_exact,
        near_looked_for=near,
        without=measure_fully(probabilities[alone], truth[alone]) if alone.any() else None,
        num_evaluation_twins=len(of_evaluation),
    )


def with_label_issues(result: Evaluation, scores: RowScores, rows: Rows) -> Evaluation:
    """The evaluation with its probable label errors, or with why none can be told."""
    seen: set[int] | None = None
    if result.leakage is not None:
        seen = {twin.number for twin in result.leakage.twins}
    elif result.adapter is None:
        seen = set()  # a base was trained on none of our rows
    found = look_for_label_issues(scores.best, scores.truth, result.labels, rows.texts, seen)
    if found is None:
        reason = "no label issues: the rows that were not trained on have one label, or are none"
        return replace(result, missing=[*result.missing, reason])
    return replace(result, label_issues=found)


def with_behaviour(result: Evaluation, classifier: Classifier, suite: Suite) -> Evaluation:
    """The evaluation with what the suite finds: of the adapter and its base, or of a base alone."""
    started = time.perf_counter()
    rows = Rows(suite.source, suite.texts, [])  # what is right is the cases' business
    scores = score(classifier, rows, "behaviour suite", result.adapter is not None)
    seconds = time.perf_counter() - started
    if scores.truncated.any():
        say(
            f"warning: {int(scores.truncated.sum()):,} texts of the suite {suite.source} were cut "
            "to fit prompt.max_length, perhaps where they matter; shorten them"
        )
    models = [scores.base] if scores.adapter is None else [scores.adapter, scores.base]
    probabilities = [at_temperature(log_probs, 1.0) for log_probs in models]
    return replace(result, behaviour=judge(suite, result.labels, seconds, *probabilities))


def with_explanations(
    result: Evaluation, classifier: Classifier, rows: Rows, scores: RowScores
) -> Evaluation:
    """The evaluation with the words that moved the surest errors, and their deletion test."""
    errors = surest_errors(scores)
    chosen = [int(number) for number in errors[:MAX_EXPLAINED]]
    texts = [rows.texts[number] for number in chosen]
    started = time.perf_counter()
    explanations = []
    with Progress("explaining errors", len(chosen)) as progress:
        for number, text in zip(chosen, texts, strict=True):
            label = int(scores.best[number].argmax())
            explanations.append(explain(classifier.scorer, classifier.prompter, text, label=label))
            progress.advance()
    deletion = deletion_test(classifier.scorer, classifier.prompter, texts, explanations)
    seconds = time.perf_counter() - started
    of_rows = dict(zip(chosen, explanations, strict=True))
    return replace(result, explained=Explained(of_rows, len(errors), deletion, seconds))


def store_calibration(folder: Path, result: Evaluation) -> None:
    """Write what holds into the adapter's `classifier.json`, and say so."""
    if result.calibrated is None:
        return
    stored = ClassifierFile.load(folder)
    temperature = result.calibrated.temperature
    value = round(temperature.value, 4) if temperature.helps else 1.0
    below = stored.calibration.abstain_below
    if result.abstention is not None and ABSTAIN not in result.labels:
        below = result.abstention.threshold.confidence if result.abstention.reached else 0.0
    wanted = Calibration(value, below)
    if wanted == stored.calibration:
        return
    try:
        replace(stored, calibration=wanted).save(folder)
    except OSError as error:
        say(f"warning: cannot write {folder / CLASSIFIER_FILE} ({error}): predict stays as it was")
        return
    say(
        f"stored in {folder / CLASSIFIER_FILE}: temperature {value:g}, "
        + (f"abstain below {below:.4f}" if below else "every text is answered")
    )


def report_on(
    report: str | Path,
    result: Evaluation,
    scores: RowScores,
    rows: Rows,
    folder: Path | None,
    classifier: Classifier,
    history: Sequence[Mapping[str, Any]],
) -> None:
    """Write the report's files, with the run's curve and recipe where the adapter has them."""
    recipe = ""
    made = {"base": classifier.reference.name, "base revision": classifier.reference.revision}
    if folder is not None:
        run = run_of(folder)
        if (run / CONFIG_FILE).is_file():
            recipe = (run / CONFIG_FILE).read_text(encoding="utf-8")
        weights = folder / "adapter_model.safetensors"
        made["adapter, SHA-256"] = hashlib.sha256(weights.read_bytes()).hexdigest()
    made["test rows, SHA-256"] = data_record({"test": rows})["test"]["sha256"]
    dtype = str(classifier.base.dtype).removeprefix("torch.")
    made["computed on"] = f"{classifier.base.device}, {dtype}"
    made |= {name: found for name, found in versions().items() if found != "not installed"}
    page = write_report(Path(report), result, scores, rows, history, recipe, made)
    say(f"report in {page}; every row in {page.with_name('predictions.parquet')}")
