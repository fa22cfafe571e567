"""The model card of an adapter: what it is, how well it does, how to load it."""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sentilora.data.text import Item
from sentilora.disk import write_atomically
from sentilora.errors import first_line
from sentilora.folders.classifier_file import ClassifierFile
from sentilora.folders.run_folder import TrainingResult
from sentilora.hub import is_gguf
from sentilora.metrics import Metrics
from sentilora.progress import say
from sentilora.shipped import EMBEDDED, card_template
from sentilora.template import TEXT
from sentilora.wording import as_metric, counted, percent, percent_interval, quoted

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData


def write_model_card(
    folder: Path,
    result: TrainingResult,
    classifier: ClassifierFile,
    *,
    lora: Mapping[str, Any],
    source: str,
    num_rows: Mapping[str, int],
) -> None:
    """Write the model card, README.md, into a run folder.

    lora: LoRA settings. source: where the training rows come from. num_rows: {split: number of its
    rows}.
    """
    from huggingface_hub import ModelCard

    metrics, base = result.metrics, classifier.base
    embedded = base.name == EMBEDDED
    text, columns = "A lovely film.", classifier.prompt.columns
    example: Item = {"text": text, **dict.fromkeys(columns, "…")} if columns else text
    interval = percent_interval(metrics.accuracy_interval, 2)
    card = ModelCard.from_template(
        _metadata(folder.name, None if embedded else base.name, metrics, source),
        template_str=card_template(),
        base=base.name,
        base_in_python=_base_in_python(base.name),
        embedded=embedded,
        revision=base.revision,
        quantization=base.quantization,
        labels=", ".join(classifier.prompt.labels),
        example=json.dumps(example, ensure_ascii=False),
        r=lora["r"],
        lora_alpha=lora["lora_alpha"],
        num_rows=metrics.num_rows,
        accuracy=f"{percent(metrics.accuracy, 2)} ({interval})",
        macro_f1=as_metric(metrics.macro_f1),
        log_loss=f"{metrics.log_loss:.4f}",
        rows=", ".join(f"{count:,} {name}" for name, count in num_rows.items()),
        source=source,
        steps=counted(result.num_steps, "step"),
        best_step=result.best_step,
        folder_in_shell=shlex.quote(result.output_dir),
        folder_in_python=_in_python(result.output_dir),
    )
    write_atomically(folder / "README.md", str(card))


def add_section(folder: Path, section: str) -> None:
    """Put a section at the end of a run's card, in place of one with the same heading."""
    path = folder / "README.md"
    heading, _, _ = section.partition("\n")
    card = path.read_text(encoding="utf-8").partition(f"\n{heading}\n")[0]
    write_atomically(path, f"{card.rstrip()}\n\n{section}")


def examples_of(folder: Path, columns: Sequence[str]) -> list[Item]:
    """Texts to try an adapter with, from `widget` in its card, where the hub looks for them too.

    columns: those that the prompt shows besides the text.
    """
    from huggingface_hub import metadata_load

    path = folder / "README.md"
    if not path.is_file():
        return []
    try:
        metadata = metadata_load(path) or {}
    except Exception as error:  # whatever is wrong with its card, the adapter can be used
        say(f"warning: {quoted(path)} cannot be read ({first_line(error)}); it gives no examples")
        return []
    widget = metadata.get("widget")
    items = [item for item in widget if isinstance(item, dict)] if isinstance(widget, list) else []
    names = (TEXT, *columns)
    records = [
        {name: str(item.get(name) or "") if _is_scalar(item.get(name)) else "" for name in names}
        for item in items
    ]
    return [record if columns else record[TEXT] for record in records if record[TEXT].strip()]


def _is_scalar(value: object) -> bool:
    """Whether a value is short as a string: YAML can hold lists of lists of the same list."""
    return isinstance(value, str | int | float)


def _in_python(name: str) -> str:
    """A string as Python source, in double quotes."""
    return json.dumps(name, ensure_ascii=False)


def _base_in_python(name: str) -> str:
    """The arguments with which transformers loads the base of this name, as Python source."""
    if name == EMBEDDED:
        return "sentilora.embedded_base()"
    if is_gguf(name):
        return f"{_in_python(str(Path(name).parent))}, gguf_file={_in_python(Path(name).name)}"
    return _in_python(name)


def _metadata(name: str, base_model: str | None, metrics: Metrics, source: str) -> "ModelCardData":
    """The card's metadata, which the hub reads."""
    from huggingface_hub import EvalResult, ModelCardData

    figures = {"accuracy": metrics.accuracy, "f1": metrics.macro_f1}
    return ModelCardData(
        base_model=base_model,
        library_name="peft",
        pipeline_tag="text-classification",
        tags=["lora", "qlora", "text-classification", "sentilora"],
        model_name=name,
        eval_results=[
            EvalResult(
                task_type="text-classification",
                dataset_type=source,
                dataset_name=f"{source}, {counted(metrics.num_rows, 'evaluation row')}",
                metric_type=metric,
                metric_value=round(value, 4),
            )
            for metric, value in figures.items()
            if value is not None
        ],
    )
