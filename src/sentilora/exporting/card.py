"""The model card of an export: figures, prompt, data, recipe, cost, limits, and no path."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sentilora.exporting.certificate import CARD_FILE, Certificate, figures_of, in_words
from sentilora.exporting.certified_rows import NUM_PUBLIC
from sentilora.exporting.gguf import gguf_name
from sentilora.exporting.onnx_file import ONNX_FILE
from sentilora.exporting.prompt_file import PromptFile
from sentilora.folders.adapter_folder import AdapterFolder
from sentilora.folders.card import examples_of
from sentilora.folders.classifier_file import ClassifierFile
from sentilora.folders.probes_file import ProbesFile
from sentilora.folders.run_folder import DataRecord, TrainingResult
from sentilora.hub import looks_like_hub_id
from sentilora.shipped import EMBEDDED, export_card_template
from sentilora.template import TEXT
from sentilora.wording import as_metric, counted, listed, percent, percent_interval

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData

_TERMS_OF_EMBEDDED = (
    "Base and the adapter that ships with sentilora were trained on the text of the Large Movie "
    "Review Dataset (Maas et al., ACL 2011), whose authors offer it for research; the reviews "
    "belong to their authors."
)
# Per kind of export: a sentence, and the hub's names for the library and the relation to the base.
_KINDS = {
    "adapter": ("This is the adapter alone, in PEFT's format.", "peft", "adapter"),
    "merged": (
        "This is base and adapter in one model, in {form}, {weights}.",
        "transformers",
        "merge",
    ),
    "gguf": (
        "This is base and adapter in one GGUF file, in {form}, {weights}.",
        "gguf",
        "quantized",
    ),
    "onnx": (
        "This is base and adapter in one ONNX model, in {form}, {weights}.",
        "onnx",
        "merge",
    ),
}
_WEIGHTS = {
    "trained": "merged into the weights that were trained with",
    "original": "merged into the unquantized weights of the base",
}


@dataclass(frozen=True)
class RunFacts:
    """What is known of the run, as plain values. recipe: settings by their names.

    source: where the training rows come from, without a path of this machine.
    """

    result: TrainingResult | None = None
    data: DataRecord | None = None
    probes: ProbesFile | None = None
    source: str = "not recorded"
    recipe: Mapping[str, Any] = field(default_factory=dict)


def public_source(source: str) -> str:
    """A source of rows without a path of this machine: a hub id as it is, else the last part."""
    if source == EMBEDDED:
        return "the reviews that ship with sentilora"
    return source if looks_like_hub_id(source) else Path(source).name or "not named"


def write_card(
    out: Path,
    name: str,
    certificate: Certificate,
    prompt: PromptFile,
    facts: RunFacts,
    folder: AdapterFolder,
) -> None:
    """Write the model card, README.md, of an export. name: of the model."""
    from huggingface_hub import ModelCard

    record = folder.classifier
    if record is None:  # refused before
        return
    sentence, _, _ = _KINDS[certificate.kind]
    calibration = prompt.calibration
    card = ModelCard.from_template(
        _metadata(name, certificate, facts, examples_of(folder.path, record.prompt.columns)),
        template_str=export_card_template(),
        title=f"{name}: {listed(prompt.labels)}",
        labels=listed(prompt.labels),
        base="the small Mistral that ships with sentilora"
        if certificate.base == EMBEDDED
        else certificate.base,
        revision=certificate.base_revision,
        quantization=record.base.quantization,
        what=sentence.format(form=certificate.form, weights=_WEIGHTS[certificate.weights]),
        metrics=_figures(facts.result),
        parity=_parity(certificate),
        num_public=NUM_PUBLIC,
        prompt=_as_block(_prompt_as_text(prompt), "text"),
        truncation=prompt.truncation,
        max_prompt_tokens=prompt.max_prompt_tokens,
        temperature=calibration.temperature,
        abstain_below=calibration.abstain_below,
        usage=_as_block(_usage(certificate, record, name), "python"),
        data=_data(facts),
        recipe=[f"`{name}`: {_plain(value)}" for name, value in facts.recipe.items()]
        or ["not recorded"],
        cost=_cost(facts),
        limits=_limits(certificate),
    )
    (out / CARD_FILE).write_text(str(card), encoding="utf-8")


def _plain(value: object) -> str:
    return listed(value) if isinstance(value, list | tuple) else f"{value}"


def _figures(result: TrainingResult | None) -> dict[str, str] | None:
    if result is None:
        return None
    metrics = result.metrics
    interval = percent_interval(metrics.accuracy_interval, 2)
    return {
        "rows": f"{metrics.num_rows:,}",
        "accuracy": f"{percent(metrics.accuracy, 2)} ({interval})",
        "macro_f1": as_metric(metrics.macro_f1),
        "log_loss": f"{metrics.log_loss:.4f}",
    }


def _parity(certificate: Certificate) -> str:
    programs = ", ".join(
        f"{name} {version}"
        for name, version in certificate.versions.items()
        if name not in ("sentilora", "torch")
    )
    words = in_words(figures_of(certificate))
    return f"Scored with {programs}: {words}. At most {certificate.tolerance:g} is allowed."


def _prompt_as_text(prompt: PromptFile) -> str:
    return "".join(
        f"{{{content}}}" if kind == "column" else content for kind, content in prompt.parts
    )


def _as_block(text: str, language: str) -> str:
    """A Markdown code block, with a fence that the text does not close."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}{language}\n{text.removesuffix(chr(10))}\n{fence}"


def _usage(certificate: Certificate, record: ClassifierFile, name: str) -> str:
    """How the export is loaded in Python, run in this folder."""
    columns = record.prompt.columns
    example: Any = {TEXT: "…", **dict.fromkeys(columns, "…")} if columns else "…"
    item = json.dumps(example, ensure_ascii=False)
    base = "sentilora.embedded_base()" if certificate.base == EMBEDDED else repr(certificate.base)
    if certificate.kind == "gguf":
        return f"from llama_cpp import Llama\n\nmodel = Llama({gguf_name(certificate.form)!r})"
    if certificate.kind == "onnx":
        return (
            f"import onnxruntime\n\nmodel = onnxruntime.InferenceSession({ONNX_FILE!r})\n"
            "# in: input_ids, attention_mask (int64, padded on the right); out: logits, all tokens"
        )
    if certificate.kind == "merged":
        return (
            "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
            'model = AutoModelForCausalLM.from_pretrained(".", dtype="auto")\n'
            'tokenizer = AutoTokenizer.from_pretrained(".")'
        )
    needed = "import sentilora\n" if certificate.base == EMBEDDED else ""
    return (
        f"{needed}from peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n\n"
        f"base = AutoModelForCausalLM.from_pretrained({base})\n"
        'model = PeftModel.from_pretrained(base, ".")\n\n'
        f"# or with calibration, truncation and every label's probability:\n"
        f'# sentilora.Classifier.load(".").predict([{item}])'
    )


def _data(facts: RunFacts) -> list[str]:
    lines = [f"source: {facts.source}"]
    splits = {} if facts.data is None else facts.data.splits
    lines += [
        f"{name}: {counted(split.num_rows, 'row')}, SHA-256 of their hashes `{split.sha256}`"
        for name, split in splits.items()
    ]
    return lines if splits else [*lines, "digests of the rows: not recorded"]


def _cost(facts: RunFacts) -> list[str]:
    lines = []
    if facts.probes is not None:
        computation = facts.probes.computation
        name = f"{computation.device.upper()} ({computation.device_name})"
        lines.append(f"hardware: {name}, {computation.compute_dtype}")
    if facts.result is not None:
        result = facts.result
        peak = result.peak_memory_gib
        memory = "" if peak is None else f", {peak:g} GiB of GPU memory at the peak"
        lines.append(
            f"time: {result.train_seconds:,.0f} s for {counted(result.num_steps, 'step')}, "
            f"evaluations included{memory}"
        )
    return [*(lines or ["hardware and time: not recorded"]), "energy: not measured"]


def _limits(certificate: Certificate) -> list[str]:
    lines = ["Terms: those of the base and of the training data hold; this card grants none."]
    if certificate.base == EMBEDDED:
        lines.append(_TERMS_OF_EMBEDDED)
    if certificate.weights == "original":
        lines.append("It was trained on 4-bit weights and is merged into others.")
    return lines


def _metadata(
    name: str, certificate: Certificate, facts: RunFacts, examples: Sequence[Any]
) -> "ModelCardData":
    """The card's metadata, which the hub reads."""
    from huggingface_hub import ModelCardData

    _, library, relation = _KINDS[certificate.kind]
    more: dict[str, Any] = {}
    if facts.result is not None:
        more = {"model_name": name, "eval_results": _results(facts.result, facts.source)}
    if examples:
        more["widget"] = [item if isinstance(item, dict) else {TEXT: item} for item in examples]
    return ModelCardData(
        base_model=None if certificate.base == EMBEDDED else certificate.base,
        base_model_relation=relation,
        library_name=library,
        pipeline_tag="text-classification",
        tags=["lora", "text-classification", "sentilora"],
        **more,
    )


def _results(result: TrainingResult, source: str) -> "list[EvalResult]":
    from huggingface_hub import EvalResult

    metrics = result.metrics
    low, high = metrics.accuracy_interval
    values: dict[str, tuple[float | None, dict[str, Any] | None]] = {
        "accuracy": (metrics.accuracy, {"wilson_95": [round(low, 4), round(high, 4)]}),
        "f1": (metrics.macro_f1, {"average": "macro"}),
        "log_loss": (metrics.log_loss, None),
    }
    return [
        EvalResult(
            task_type="text-classification",
            dataset_type=source,
            dataset_name=f"{source}, {counted(metrics.num_rows, 'evaluation row')}",
            metric_type=metric,
            metric_value=round(value, 4),
            metric_args=arguments,
        )
        for metric, (value, arguments) in values.items()
        if value is not None
    ]
