"""Measure: the adapter and its base with the adapter off, on the same test rows.

sentilora evaluate --adapter ./mistral-sentiment-ita
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sentilora.adapter_folder import CLASSIFIER_FILE, ClassifierFile, check_adapter_folder
from sentilora.classifier import Classifier
from sentilora.config import CONFIG_FILE, Config, load_config, read_config
from sentilora.data import Rows
from sentilora.errors import UsageError
from sentilora.model import shipped_adapter
from sentilora.progress import Progress, say
from sentilora.prompt import PromptFormat
from sentilora.run_folder import seen_rows
from sentilora.stages import load_test_of, prompt_format_of

if TYPE_CHECKING:
    import numpy as np

    from sentilora.metrics import Metrics


@dataclass(frozen=True)
class Evaluation:
    """Metrics on the test rows. `mcnemar_p`: exact p-value that adapter and base differ.

    adapter is None when a base was evaluated alone.
    """

    test: str
    num_rows: int
    num_truncated: int
    labels: tuple[str, ...]
    adapter_path: str | None
    base_name: str
    adapter: "Metrics | None"
    base: "Metrics"
    mcnemar_p: float | None

    def to_json(self) -> str:
        """The whole evaluation as JSON."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False)


def evaluate(
    adapter: str | Path | None = None,
    *,
    base: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    device: str = "auto",
    batch_size: int = 16,
) -> Evaluation:
    """Score the test rows with an adapter and with its base alone.

    adapter: a run folder; None takes the shipped adapter. base: score this base, without any
    adapter. overrides: {"section.key": value} laid over the configuration the adapter was trained
    with; `data.test` names other rows. Raises `DataError` and `UsageError`, see `errors`.
    """
    if base is not None and adapter is not None:
        raise UsageError("--base scores a base without adapter; leave out --adapter")
    folder = None if base is not None else Path(adapter or shipped_adapter())
    config, format = settings_of(folder, overrides or {})
    rows = load_test_of(config, format.labels)
    if len(set(rows.labels)) < len(format.labels):
        missing = [label for label in format.labels if label not in rows.labels]
        say(f"warning: no test row is {', '.join(missing)}; macro-F1 is over the labels that occur")
    if folder is not None:
        warn_of_seen_rows(folder, rows, format.labels)
    if folder is None:
        assert base is not None
        classifier = Classifier.from_base(base, format, device=device, batch_size=batch_size)
    else:
        classifier = Classifier.load(folder, device=device, batch_size=batch_size)
    return evaluate_rows(classifier, rows, str(folder) if folder else None)


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


def evaluate_rows(
    classifier: Classifier, rows: Rows, adapter_path: str | None = None
) -> Evaluation:
    """Score rows with a loaded classifier: adapter on, then (if it has one) off."""
    import numpy as np

    from sentilora.metrics import mcnemar_p, measure

    truth = [classifier.labels.index(label) for label in rows.labels]
    prompts = [classifier.prompter.encode(text) for text in rows.texts]
    ids = [prompt.input_ids for prompt in prompts]

    def score(description: str) -> "np.ndarray":
        with Progress(description, len(ids)) as progress:
            return classifier.scorer.probabilities(ids, progress.advance).numpy()

    if adapter_path is None:
        tuned, plain = None, score("base")
    else:
        tuned = score("adapter")
        with classifier.adapter_disabled():
            plain = score("base")
    right = [np.asarray(p).argmax(-1) == truth for p in (tuned, plain) if p is not None]
    return Evaluation(
        test=rows.source,
        num_rows=len(rows),
        num_truncated=sum(prompt.truncated for prompt in prompts),
        labels=classifier.labels,
        adapter_path=adapter_path,
        base_name=classifier.reference.name,
        adapter=None if tuned is None else measure(tuned, truth),
        base=measure(plain, truth),
        mcnemar_p=None if tuned is None else mcnemar_p(right[0].tolist(), right[1].tolist()),
    )


def as_table(result: Evaluation) -> str:
    """The evaluation for a reader: a line per model, then the confusion matrix."""
    lines = [
        f"{result.num_rows:,} rows of {result.test}, {result.num_truncated:,} truncated",
        "",
        f"{'':<10}{'accuracy':>10}  {'95 % Wilson':<18}{'macro-F1':>9}{'log-loss':>10}",
    ]
    named = {"adapter": result.adapter, "base": result.base}
    for name, metrics in named.items():
        if metrics is not None:
            low, high = metrics.accuracy_interval
            lines.append(
                f"{name:<10}{metrics.accuracy:>10.2%}  {f'{low:.2%} – {high:.2%}':<18}"
                f"{metrics.macro_f1:>9.4f}{metrics.log_loss:>10.4f}"
            )
    if result.mcnemar_p is not None:
        lines += ["", f"adapter against base, exact McNemar: p = {result.mcnemar_p:.2g}"]
    best = result.adapter or result.base
    width = max(12, *(len(label) + 2 for label in result.labels))
    lines += [
        "",
        "true \\ predicted".ljust(width + 4) + "".join(f"{x:>{width}}" for x in result.labels),
    ]
    for label, counts in zip(result.labels, best.confusion, strict=True):
        lines.append(f"{label:<{width + 4}}" + "".join(f"{count:>{width},}" for count in counts))
    return "\n".join(lines)
