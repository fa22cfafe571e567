"""Measure on test rows: the adapter, its base without it, and TF-IDF on the same labels.

sentilora evaluate --adapter ./mistral-sentiment-ita
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from numbers import Real
from pathlib import Path
from typing import Any, Literal, Unpack

from sentilora.config import CONFIG_FILE, Config
from sentilora.data.memory import InMemory
from sentilora.data.rows import Rows
from sentilora.data.text import Item
from sentilora.errors import UsageError
from sentilora.evaluation.findings import Evaluation
from sentilora.evaluation.measuring import (
    Measurement,
    explain_errors,
    label_issues_of,
    measure_rows,
    run_suite,
)
from sentilora.evaluation.page import Provenance, report_errors, write_report
from sentilora.evaluation.requirements import (
    Bound,
    absent_figures,
    absent_for,
    judged,
    read_requirements,
    require_measured,
    require_met,
)
from sentilora.evaluation.suite import Suite, load_suite
from sentilora.folders.adapter_folder import AdapterFolder
from sentilora.folders.classifier_file import (
    Calibration,
    ClassifierFile,
    require_base_keywords,
)
from sentilora.folders.new_folder import new_folder
from sentilora.folders.run_folder import (
    hash_of,
    read_metrics,
    require_unused,
)
from sentilora.models.runtime import Runtime, RuntimeOverrides
from sentilora.progress import say
from sentilora.prompt import PromptFormat
from sentilora.scoring.answers import ABSTAIN
from sentilora.scoring.classifier import Classifier
from sentilora.scoring.content_free import label_prior
from sentilora.shipped import shipped_adapter
from sentilora.stages.adapter_rows import (
    belongs_to_adapter,
    known_rows,
    load_test,
    require_same_test_rows,
    settings_of,
)
from sentilora.stages.env import versions
from sentilora.stages.from_config import tables_of, with_tables
from sentilora.stages.named_base import named_base, preset_named
from sentilora.wording import as_probability, listed, percent, quoted


def evaluate(
    adapter: str | Path | None = None,
    *,
    base: str | Path | None = None,
    quantization: Literal["nf4", "none"] | None = None,
    data: object = None,
    overrides: Mapping[str, Any] | None = None,
    target_accuracy: float | None = None,
    report: str | Path | None = None,
    suite: str | Path | None = None,
    label_issues: bool = False,
    near_duplicates: bool = False,
    require: Iterable[str] = (),
    content_free: bool = False,
    **runtime: Unpack[RuntimeOverrides],
) -> Evaluation:
    """Score the test rows with an adapter, with its base alone, and with a baseline.

    adapter: a run folder; None takes the shipped adapter. base: with `adapter`, where its base is
    now; alone, the base to score, or a preset's name for its base, prompt and data. quantization:
    "nf4" or "none" (the base as it is stored), not what was recorded. data: test rows in memory, a
    table or a mapping of splits as in `train`. overrides: {"section.key": value} of the adapter's
    configuration, `data.test` for other rows and `prompt.ordered`; of a base alone the whole
    prompt. target_accuracy: choose a threshold on the evaluation rows above which the classifier is
    that accurate; `classifier.json` stores it, label sets, and a temperature that helps.
    report: a new folder for the files of `evaluation.page`. suite: "sentiment", or a file of
    behavior tests. label_issues: look for probable label errors. near_duplicates: beyond 200,000
    rows too. content_free: divide out what a base alone answers to texts without content. require:
    see `evaluation.requirements`, such as "accuracy>=0.9". runtime: `Runtime`'s.

    Raises `DataError` and `UsageError`, and `RequirementError`, once everything is written, for a
    requirement that is not met. It and an error that stops only the report have the `evaluation`.
    """
    require_base_keywords(base, quantization)
    alone = base is not None and adapter is None
    requested = check_request(alone, target_accuracy, near_duplicates, report, runtime)
    absent = absent_figures(alone, target_accuracy, report, suite, label_issues)
    bounds = read_requirements(require, absent)
    folder = None if alone else AdapterFolder.open(adapter or shipped_adapter())
    config, format = settings_of(folder, overrides or {}, preset_named(base))
    require_measured(bounds, absent_for(format), format.labels)
    tests = None if suite is None else suite_for(suite, format)
    history = read_metrics(folder.run) if folder is not None and report is not None else []
    config = with_tables(config, tables := tables_of(data, "test"))
    rows = load_rows(folder, config, format, tables, overrides or {})
    known, notes = known_rows(folder, config, rows, format.labels, tables)
    classifier = load_classifier(folder, base, quantization, format, runtime, content_free)
    path = None if folder is None else str(folder.path)
    options = target_accuracy, near_duplicates, format.ordered
    measurement = measure_rows(classifier, rows, path, known, *options)
    result = evaluation_of(measurement, classifier, folder, notes, label_issues, tests)
    if adapter is not None and requested.base_matmul == "exact":
        store_calibration(folder, classifier, result)
    result = judged(result, bounds)
    if report is not None:
        settings = settings_of_report(config, classifier, target_accuracy, tests, label_issues)
        origin = partial(provenance_of, folder, classifier, rows, history, settings)
        result = with_report(report, result, bounds, measurement, classifier, origin, known)
    require_met(result)
    return result


def check_request(
    is_base_alone: bool,
    target_accuracy: float | None,
    near_duplicates: bool,
    report: str | Path | None,
    runtime: RuntimeOverrides,
) -> Runtime:
    """The requested runtime. Raises `UsageError`, before anything is read, for what cannot be."""
    is_number = isinstance(target_accuracy, Real)
    if target_accuracy is not None and not (is_number and 0 < target_accuracy < 1):
        raise UsageError(
            f"`target_accuracy` is {target_accuracy:g}"
            if is_number
            else f"`target_accuracy` is {target_accuracy!r:.60}",
            setting="target_accuracy",
            seen=target_accuracy,
            remedy="give a number such as 0.98",
        )
    for name, value in {
        "target_accuracy": target_accuracy,
        "near_duplicates": near_duplicates,
    }.items():
        if value and is_base_alone:
            raise UsageError(
                f"`{name}` needs an adapter, with the rows it was trained and evaluated on",
                setting=name,
                seen=value,
                remedy="give `adapter` too",
            )
    if report is not None:
        require_unused(Path(report), "report", "")
    requested = Runtime().override(**runtime)
    requested.require_possible()
    return requested


def load_rows(
    folder: AdapterFolder | None,
    config: Config,
    format: PromptFormat,
    tables: Mapping[str, InMemory],
    overrides: Mapping[str, Any],
) -> Rows:
    """The test rows, which must be those of the training unless they are named now."""
    with belongs_to_adapter(folder):
        rows = load_test(config, format.labels, tables, overrides)
        require_same_test_rows(folder, config, rows, tables)
    return rows


def load_classifier(
    folder: AdapterFolder | None,
    base: str | Path | None,
    quantization: Literal["nf4", "none"] | None,
    format: PromptFormat,
    runtime: RuntimeOverrides,
    content_free: bool = False,
) -> Classifier:
    """The adapter in a folder on its base, or the base alone, perhaps relative to its prior."""
    base = named_base(base)
    if folder is None and base is not None:
        classifier = Classifier.from_base(base, format, quantization=quantization, **runtime)
        if content_free:
            classifier.prior = label_prior(classifier.prompter, classifier.scorer)
        return classifier
    if content_free:
        raise UsageError(
            "`content_free` is for a base without an adapter: training learns its preference away",
            setting="content_free",
            seen=True,
            remedy="leave it out, or name the base alone with `base`",
        )
    return Classifier.load(folder, base=base, quantization=quantization, **runtime)


def is_as_trained(classifier: Classifier, folder: AdapterFolder | None) -> bool:
    """Whether the base is quantized as it was in training."""
    if folder is None or folder.classifier is None:
        return True
    return classifier.reference.quantization == folder.classifier.base.quantization


def suite_for(source: str | Path, format: PromptFormat) -> Suite:
    """The suite of behavior tests, which must expect no other labels. Its cases are texts alone."""
    if format.columns:
        raise UsageError(
            f"the prompt also shows {', '.join(format.columns)}, and a suite holds only texts",
            setting="suite",
            seen=str(source),
            remedy="leave out `suite`",
        )
    suite = load_suite(source)
    suite.require_labels(format.labels)
    return suite


def evaluation_of(
    measurement: Measurement,
    classifier: Classifier,
    folder: AdapterFolder | None,
    notes: Sequence[str],
    label_issues: bool,
    tests: Suite | None,
) -> Evaluation:
    """The figures of a measurement, with those that need more than it. notes: of the rows."""
    return measurement.as_evaluation(
        notes=[*runtime_notes(classifier, folder, measurement), *notes],
        label_issues=label_issues_of(measurement) if label_issues else None,
        behaviour=run_suite(classifier, tests, folder is not None) if tests else None,
    )


def runtime_notes(
    classifier: Classifier, folder: AdapterFolder | None, measurement: Measurement
) -> list[str]:
    """Notes on figures that were not computed as in training; empty when they were."""
    notes = []
    if classifier.runtime.base_matmul != "exact":
        notes.append(f"computed on {classifier.computed_on}")
    if not is_as_trained(classifier, folder):
        notes.append(f"computed with quantization {classifier.reference.quantization}")
    if notes and measurement.scaling is not None:
        notes.append(f"{ClassifierFile.FILE} keeps its previous temperature and thresholds")
    if classifier.prior is not None:
        pairs = zip(classifier.labels, classifier.prior, strict=True)
        shares = ", ".join(f"{label} {percent(share)}" for label, share in pairs)
        notes.append(f"relative to the answers to texts without content: {shares}")
    return notes


def store_calibration(
    folder: AdapterFolder | None, classifier: Classifier, result: Evaluation
) -> None:
    """Write temperature, threshold and label sets into `classifier.json`, and report it.

    Figures that were not computed as in training are not stored.
    """
    stored = None if folder is None else folder.classifier
    if folder is None or result.calibrated is None or stored is None:
        return
    if not is_as_trained(classifier, folder):
        return
    path = folder.path / stored.FILE
    temperature = result.calibrated.temperature.divisor
    below = stored.calibration.abstain_below
    if result.abstention is not None and ABSTAIN not in result.labels:
        below = result.abstention.threshold.confidence if result.abstention.is_reached else 0.0
    label_sets = {sets.target: sets.least_probability for sets in result.label_sets}
    calibration = Calibration(temperature, below, label_sets)
    if calibration == stored.calibration:
        return
    try:
        stored.model_copy(update={"calibration": calibration}).save(folder.path)
    except OSError as error:
        say(f"warning: cannot write {quoted(path)} ({error}): predict stays as it was")
        return
    say(
        f"stored in {quoted(path)}: temperature {temperature:g}, "
        + (f"abstain below {as_probability(below)}" if below else "every text is answered")
        + (", label sets for " + listed([f"{x:g}" for x in label_sets]) if label_sets else "")
    )


# --- report --------------------------------------------------------------------------------------


def settings_of_report(
    config: Config,
    classifier: Classifier,
    target_accuracy: float | None,
    suite: Suite | None,
    label_issues: bool,
) -> dict[str, str]:
    """Which rows were evaluated and what was requested, for the reader of a report."""
    data, absent = config.data, "not requested"
    sample = f"{data.num_test:,}, of the shuffle with data.shuffle_seed={data.shuffle_seed}"
    return {
        "data.test": data.test if Path(data.test).is_file() else f"{data.test}, its test split",
        "data.num_test": sample if data.num_test else "0: all, in the source's order",
        "data.text_column": data.text_column,
        "data.label_column": data.label_column,
        "data.label_map": ", ".join(f"{k} = {v}" for k, v in data.label_map.items()) or "none",
        "batch size": f"{classifier.runtime.batch_size}",
        "target accuracy": absent if target_accuracy is None else f"{target_accuracy}",
        "behaviour suite": absent if suite is None else suite.source,
        "label issues": "requested" if label_issues else absent,
    }


def provenance_of(
    folder: AdapterFolder | None,
    classifier: Classifier,
    rows: Rows,
    history: Sequence[Mapping[str, Any]],
    settings: Mapping[str, str],
) -> Provenance:
    """Where the figures of a report come from: settings, base, hashes, machine, versions."""
    recipe = ""
    details = {
        **settings,
        "base": classifier.reference.name,
        "base revision": classifier.reference.revision,
    }
    if folder is not None:
        if (folder.run / CONFIG_FILE).is_file():
            recipe = (folder.run / CONFIG_FILE).read_text(encoding="utf-8-sig")
        details["adapter, SHA-256"] = folder.weights_digest()
    details["test rows, SHA-256"] = hash_of(rows.hashes())
    details["computed on"] = classifier.computed_on
    details |= {name: v for name, v in versions().items() if v != "not installed"}
    return Provenance(history, recipe, details)


def with_report(
    report: str | Path,
    result: Evaluation,
    bounds: Sequence[Bound],
    measurement: Measurement,
    classifier: Classifier,
    origin: Callable[[], Provenance],
    known: tuple[Rows, Rows] | None,
) -> Evaluation:
    """The evaluation with explained errors, which its report shows. The report is written."""
    with report_errors(report, result):
        explained = explain_errors(classifier, measurement)
        result = judged(replace(result, explained=explained), bounds)
        report_on(report, result, measurement, classifier, origin(), known)
    return result


def report_on(
    report: str | Path,
    result: Evaluation,
    measurement: Measurement,
    classifier: Classifier,
    provenance: Provenance,
    known: tuple[Rows, Rows] | None,
) -> None:
    """Write the report's files, and say where they are."""

    def visible_parts(item: Item) -> Sequence[tuple[int, int]]:
        return classifier.prompter.encode(item).spans

    splits = dict(zip(("train", "evaluation"), known or (), strict=False))
    scores, rows = measurement.scores, measurement.rows
    with new_folder(Path(report)) as folder:
        name = write_report(folder, result, scores, rows, provenance, visible_parts, splits).name
    page = Path(report) / name
    say(f"report in {quoted(page)}; every row in {quoted(page.with_name('predictions.parquet'))}")
