"""Measure on test rows: the adapter, its base without it, and TF-IDF on the same labels.

sentilora evaluate --adapter ./mistral-sentiment-ita
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

from sentilora.config import CONFIG_FILE, Config, load_config, read_config
from sentilora.data.rows import Rows
from sentilora.errors import DataError, UsageError
from sentilora.evaluation.findings import Evaluation, RowScores, by_rating
from sentilora.evaluation.measuring import (
    measure_rows,
    with_behaviour,
    with_explanations,
    with_label_issues,
)
from sentilora.evaluation.page import report_errors, write_report
from sentilora.evaluation.suite import load_suite
from sentilora.folders.adapter_folder import AdapterFolder
from sentilora.folders.classifier_file import Calibration, ClassifierFile
from sentilora.folders.run_folder import (
    DataRecord,
    SplitRecord,
    hash_of,
    read_metrics,
    require_same_rows,
    require_unused,
    seen_rows,
)
from sentilora.models.runtime import Runtime, RuntimeOverrides
from sentilora.progress import say
from sentilora.prompt import PromptFormat
from sentilora.scoring.answers import ABSTAIN
from sentilora.scoring.classifier import Classifier
from sentilora.shipped import EMBEDDED, adapter_name, shipped_adapter
from sentilora.stages.env import versions
from sentilora.stages.from_config import load_rows_of, load_test_of, prompt_format_of
from sentilora.wording import as_probability, counted


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
    **runtime: Unpack[RuntimeOverrides],
) -> Evaluation:
    """Score the test rows with an adapter, with its base alone, and with a baseline.

    adapter: a run folder; None takes the shipped adapter. base: score this base, without any
    adapter. overrides: {"section.key": value} laid over the configuration the adapter was trained
    with; `data.test` names other rows. target_accuracy: choose a threshold on the evaluation rows
    above which the classifier is that accurate. A temperature or threshold that holds is written to
    the adapter's `classifier.json`. report: a new folder for the files of `report_page`. suite:
    "sentiment", or a file of behaviour tests, see `suite`. label_issues: look for probable label
    errors. near_duplicates: look for them among more than 200,000 rows too. base_matmul: of
    `Classifier.load`. Raises `DataError` and `UsageError`, see `errors`; one that ends only the
    report has the `evaluation` with it.
    """
    if base is not None and adapter is not None:
        raise UsageError("`base` scores a base without adapter; leave out `adapter`")
    if target_accuracy is not None and not 0 < target_accuracy < 1:
        raise UsageError(f"`target_accuracy` is {target_accuracy:g}; give a number such as 0.98")
    if target_accuracy is not None and base is not None:
        raise UsageError("`target_accuracy` goes with an adapter")
    if near_duplicates and base is not None:
        raise UsageError("`near_duplicates` goes with an adapter: they are those of its own rows")
    if report is not None:
        require_unused(Path(report), "report", "")
    asked = Runtime().override(**runtime)
    asked.require_possible()
    folder = None if base is not None else AdapterFolder.open(adapter or shipped_adapter())
    config, format = settings_of(folder, overrides or {})
    tests = None if suite is None else load_suite(suite)
    if tests is not None:
        tests.require_labels(format.labels)
    history = read_metrics(folder.run) if folder is not None and report is not None else []
    rows = load_test(config, format.labels, "data.test" in (overrides or {}))
    if len(set(rows.labels)) < len(format.labels):
        missing = [label for label in format.labels if label not in rows.labels]
        say(
            f"warning: no test row is {', '.join(missing)}; macro-F1 is over the labels of rows "
            "and answers"
        )
    known = None
    if folder is None:
        assert base is not None
        classifier = Classifier.from_base(base, format, asked)
        result, scores = measure_rows(classifier, rows)
    else:
        seen = said_of_seen_rows(folder, rows, format.labels)
        if seen:
            say(f"warning: {seen}")
        known, reason = known_rows(folder, config)
        classifier = Classifier.load(folder, **runtime)
        result, scores = measure_rows(
            classifier, rows, str(folder.path), known, target_accuracy, near_duplicates
        )
        notes = [note for note in (seen, reason) if note]
        result = replace(result, missing=[*notes, *result.missing])
    if asked.base_matmul != "exact":
        notes = [f"computed on {classifier.computed_on}"]
        if result.calibrated is not None:
            notes.append(f"{ClassifierFile.FILE} keeps the temperature and threshold that it had")
        result = replace(result, missing=[*notes, *result.missing])
    right = scores.best.argmax(-1) == scores.truth
    result = replace(result, ratings=by_rating(rows.rating_column, rows.ratings, right))
    if label_issues:
        result = with_label_issues(result, scores, rows)
    if tests is not None:
        result = with_behaviour(result, classifier, tests)
    if folder is not None and adapter is not None and asked.base_matmul == "exact":
        store_calibration(folder, result)
    if report is not None:
        settings = {
            **rows_settings(config),
            "batch size": f"{classifier.runtime.batch_size}",
            "target accuracy": "not asked for" if target_accuracy is None else f"{target_accuracy}",
            "behaviour suite": "not asked for" if tests is None else tests.source,
            "label issues": "looked for" if label_issues else "not asked for",
        }
        with report_errors(report, result):
            result = with_explanations(result, classifier, rows, scores)
            report_on(report, result, scores, rows, folder, classifier, history, settings, known)
    return result


def settings_of(
    folder: AdapterFolder | None, overrides: Mapping[str, Any]
) -> tuple[Config, PromptFormat]:
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
    stored = folder.classifier
    if stored is None:
        raise UsageError(
            f"{folder.path} has no {ClassifierFile.FILE}: evaluate knows neither its labels nor "
            "its prompt"
        )
    run = folder.run
    if (run / CONFIG_FILE).is_file():
        config = read_config(run / CONFIG_FILE)
    elif "data.test" in overrides:
        config = load_config()
    else:
        raise UsageError(
            f"{folder.path} has no {CONFIG_FILE} that names test rows; give data.test=…"
        )
    return config.with_values(overrides), stored.prompt


def rows_settings(config: Config) -> dict[str, str]:
    """Which rows were evaluated, for the reader of a report: what stands in `data` of them."""
    data = config.data
    drawn = f"{data.num_test:,}, of the shuffle with data.shuffle_seed={data.shuffle_seed}"
    return {
        "data.test": data.test if Path(data.test).is_file() else f"{data.test}, its test split",
        "data.num_test": drawn if data.num_test else "0: all, in the source's order",
        "data.text_column": data.text_column,
        "data.label_column": data.label_column,
        "data.label_map": ", ".join(f"{k} = {v}" for k, v in data.label_map.items()) or "none",
    }


def load_test(config: Config, labels: Sequence[str], is_given: bool) -> Rows:
    """The test rows. is_given: `data.test` was named now, not when the adapter was trained."""
    try:
        return load_test_of(config, labels)
    except DataError as error:
        if is_given or Path(config.data.test).is_absolute() or config.data.test == EMBEDDED:
            raise
        raise DataError(
            f"{error} (the adapter's {CONFIG_FILE} names it; from another folder than it was "
            "trained in, say where it is: data.test=…)"
        ) from error


def said_of_seen_rows(folder: AdapterFolder, rows: Rows, labels: Sequence[str]) -> str:
    """How many test rows the adapter was trained or chosen on; empty when none."""
    seen = {name: count for name, count in seen_rows(folder.run, rows, labels).items() if count}
    if not seen:
        return ""
    parts = " and ".join(f"{count:,} among its {name} rows" for name, count in seen.items())
    return (
        f"of the {counted(len(rows), 'test row')} {parts} are known to it: what it does with those "
        "says little about unseen text; give other rows with data.test=…"
    )


def known_rows(folder: AdapterFolder, config: Config) -> tuple[tuple[Rows, Rows] | None, str]:
    """Training and evaluation rows of an adapter's run, or None and why they cannot be had."""
    what = "no baseline, no calibration, no threshold, no search for duplicates"
    run = folder.run
    if not (run / CONFIG_FILE).is_file() or not (run / DataRecord.FILE).is_file():
        return None, f"{what}: {adapter_name(run)} does not say which rows it was trained on"
    try:
        train, evaluation = load_rows_of(config)
        require_same_rows(
            run, DataRecord(train=SplitRecord.of(train), evaluation=SplitRecord.of(evaluation))
        )
    except (DataError, UsageError) as error:
        return None, f"{what}: {error}"
    return (train, evaluation), ""


def store_calibration(folder: AdapterFolder, result: Evaluation) -> None:
    """Write what holds into the adapter's `classifier.json`, and say so."""
    if result.calibrated is None:
        return
    stored = folder.classifier
    assert stored is not None
    path = folder.path / stored.FILE
    value = round(result.calibrated.temperature.used, 4)
    below = stored.calibration.abstain_below
    if result.abstention is not None and ABSTAIN not in result.labels:
        below = result.abstention.threshold.confidence if result.abstention.reached else 0.0
    wanted = Calibration(value, below)
    if wanted == stored.calibration:
        return
    try:
        stored.model_copy(update={"calibration": wanted}).save(folder.path)
    except OSError as error:
        say(f"warning: cannot write {path} ({error}): predict stays as it was")
        return
    say(
        f"stored in {path}: temperature {value:g}, "
        + (f"abstain below {as_probability(below)}" if below else "every text is answered")
    )


def report_on(
    report: str | Path,
    result: Evaluation,
    scores: RowScores,
    rows: Rows,
    folder: AdapterFolder | None,
    classifier: Classifier,
    history: Sequence[Mapping[str, Any]],
    settings: Mapping[str, str],
    known: tuple[Rows, Rows] | None,
) -> None:
    """Write the report's files, with the run's curve and recipe where the adapter has them."""
    recipe = ""
    made = {
        **settings,
        "base": classifier.reference.name,
        "base revision": classifier.reference.revision,
    }
    if folder is not None:
        run = folder.run
        if (run / CONFIG_FILE).is_file():
            recipe = (run / CONFIG_FILE).read_text(encoding="utf-8")
        made["adapter, SHA-256"] = folder.weights_digest()
    made["test rows, SHA-256"] = hash_of(rows.hashes())
    made["computed on"] = classifier.computed_on
    made |= {name: found for name, found in versions().items() if found != "not installed"}

    def kept(text: str) -> Sequence[tuple[int, int]]:
        return classifier.prompter.encode(text).spans

    splits = dict(zip(("train", "evaluation"), known or (), strict=False))
    page = write_report(Path(report), result, scores, rows, history, recipe, made, kept, splits)
    say(f"report in {page}; every row in {page.with_name('predictions.parquet')}")
