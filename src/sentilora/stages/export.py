"""Write an adapter in a form that other programs read, certified to answer as it was trained.

sentilora export adapter OUT
sentilora export merged OUT --dtype bfloat16
sentilora export gguf OUT --dtype q8_0
sentilora export onnx OUT
"""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from numbers import Real
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, cast

from sentilora.config import CONFIG_FILE, Config, read_config
from sentilora.data.text import Item
from sentilora.errors import DataError, UsageError, first_line
from sentilora.exporting.adapter import public_base, write_adapter, write_tokenizer
from sentilora.exporting.card import RunFacts, public_source, write_card
from sentilora.exporting.certificate import (
    Certificate,
    Form,
    Kind,
    compare,
    digests_of,
    origins_of,
    tolerance_of,
    versions_of,
)
from sentilora.exporting.certified_rows import Row, rows_of, save_rows
from sentilora.exporting.converter import converter_script
from sentilora.exporting.gguf import FORMS, MODELFILE, gguf_name, modelfile, write_gguf
from sentilora.exporting.loading import load_export
from sentilora.exporting.merged import (
    DTYPES,
    Weights,
    merged_model,
    name_answers,
    require_mergeable,
)
from sentilora.exporting.onnx_file import ONNX_DTYPES, require_onnx, write_onnx
from sentilora.exporting.own_runtime import import_llama_cpp
from sentilora.exporting.prompt_file import PromptFile
from sentilora.folders.adapter_folder import AdapterFolder
from sentilora.folders.classifier_file import BaseReference
from sentilora.folders.new_folder import new_folder, require_new
from sentilora.folders.probes_file import Computation, ProbesFile
from sentilora.folders.run_folder import DataRecord, TrainingResult, require_same_rows
from sentilora.hub import require_hub_to_upload
from sentilora.models.device import free_memory
from sentilora.progress import say
from sentilora.scoring.classifier import Classifier
from sentilora.scoring.probes import computation_of
from sentilora.shipped import shipped_adapter
from sentilora.stages.from_config import load_rows_of
from sentilora.stages.named_base import named_base
from sentilora.wording import alternatives, counted, quoted

CHOICES: dict[str, tuple[str, ...]] = {
    "adapter": (),
    "merged": DTYPES,
    "gguf": FORMS,
    "onnx": ONNX_DTYPES,
}
# Settings that the card shows, and those among them that say nothing of the model.
IN_CARD = ("lora.", "training.", "prompt.max_length", "prompt.truncation")
NOT_IN_CARD = ("report_to", "logging_steps", "save_steps", "save_total_limit", "eval_batch_size")


@dataclass(frozen=True)
class Request:
    """An export that was asked for. form: its number format, "" for an adapter.

    tolerance: the difference that is accepted, None for that of the number formats.
    """

    kind: Kind
    form: str
    weights: Weights
    name: str
    tolerance: float | None


@dataclass(frozen=True)
class Trained:
    """What an export is compared with. rows: as the trained model scored them."""

    rows: list[Row]
    computation: Computation
    revision: str


def export(
    kind: str,
    out: str | Path,
    *,
    adapter: str | Path | None = None,
    base: str | Path | None = None,
    dtype: str | None = None,
    weights: Literal["trained", "original"] = "trained",
    base_id: str | None = None,
    converter: str | Path | None = None,
    tolerance: float | None = None,
    push_to_hub: str | None = None,
    device: str | None = None,
) -> Certificate:
    """Write an adapter for other programs, and the certificate that it answers as it was trained.

    kind: "adapter" (a clean PEFT folder), "merged" (base and adapter as one transformers model),
    "gguf" (the same for llama.cpp and Ollama) or "onnx" (for ONNX Runtime). out: new folder.
    adapter: None for the one that ships. base: where its base is now. dtype: of merged float16,
    bfloat16 or float32; of gguf f16, q8_0 or q4_K_M; of onnx float32 or float16. weights: merge
    into the base's weights of training, or into the `original`, unquantized ones. base_id: name of
    the base for other machines. converter: llama-cpp-python's source distribution; None downloads
    it. tolerance: accepted difference of a probability; None: by format. push_to_hub: repository.

    Raises `UsageError` and `DataError` for what cannot be exported, `SentiloraError` when the
    export answers otherwise than the trained model; then nothing is left in `out`.
    """
    out = Path(os.path.expanduser(out))
    request = check_request(kind, out, dtype, weights, tolerance)
    folder = AdapterFolder.open(adapter or shipped_adapter())
    record = folder.require_classifier()
    base = named_base(base)
    reference = folder.base_to_load(base)
    script = tools_for(request.kind, converter)
    if request.kind != "adapter":
        require_mergeable(folder, reference, request.weights)
    if push_to_hub is not None:
        require_hub_to_upload(push_to_hub)
    facts, evaluation = look_at_run(folder)
    name = public_base(reference, base_id)
    with new_folder(out) as partial:
        classifier = Classifier.load(folder, base=base, device=device)
        prompt = PromptFile.of(classifier.prompter, classifier.calibration)
        prompt.save(partial)
        if request.kind == "adapter":
            write_adapter(classifier, folder, record, name, partial)
        elif script is not None:
            write_file(script, classifier, folder, reference, request, prompt, partial)
        else:
            write_model(classifier, folder, reference, request, partial)
        trained = score_trained(classifier, evaluation)
        del classifier
        free_memory()  # the export may need it
        save_rows(trained.rows, partial)
        certificate = certify(request, folder, reference, trained, prompt, name, partial)
        certificate.save(partial)
        write_card(partial, request.name, certificate, prompt, facts, folder)
    if push_to_hub is not None:
        upload(out, push_to_hub)
    return certificate


# --- before a model is loaded --------------------------------------------------------------------


def tools_for(kind: Kind, converter: str | Path | None) -> Path | None:
    """llama.cpp's converter for a GGUF file.

    Raises `UsageError` for packages that are missing, and for a `converter` that is not needed.
    """
    if kind == "onnx":
        require_onnx()
    if kind != "gguf":
        if converter is not None:
            raise UsageError(
                f"`converter` is for gguf, and this export is {kind}",
                setting="converter",
                seen=str(converter),
                remedy="leave it out, or export gguf",
            )
        return None
    import_llama_cpp()
    return converter_script(None if converter is None else Path(converter))


def check_request(
    kind: str, out: Path, dtype: str | None, weights: str, tolerance: float | None
) -> Request:
    """The request, checked. Raises `UsageError` for what does not exist or does not fit."""
    if kind not in CHOICES:
        raise UsageError(
            f"there is no kind of export {quoted(kind)}",
            setting="kind",
            seen=kind,
            remedy=f"choose {alternatives(CHOICES)}",
        )
    choices = CHOICES[kind]
    if dtype is not None and dtype not in choices:
        remedy = f"choose {alternatives(choices)}" if choices else "leave it out"
        raise UsageError(
            f"`dtype` is {quoted(dtype)}, and {kind} "
            + ("has no such format" if choices else "keeps the adapter's own"),
            setting="dtype",
            seen=dtype,
            remedy=remedy,
        )
    if weights not in ("trained", "original"):
        raise UsageError(
            f"there are no `weights` {quoted(weights)}",
            setting="weights",
            seen=weights,
            remedy="choose trained or original",
        )
    if weights == "original" and kind == "adapter":
        raise UsageError(
            "`weights` are those that an adapter is merged into, and this export merges nothing",
            setting="weights",
            seen=weights,
            remedy="leave it out, or export merged, gguf or onnx",
        )
    is_number = isinstance(tolerance, Real)
    if tolerance is not None and not (is_number and 0 < tolerance < 1):
        raise UsageError(
            f"`tolerance` is {tolerance!r:.60}",
            setting="tolerance",
            seen=tolerance,
            remedy="give a difference of probabilities, such as 0.3",
        )
    require_new(out)
    form = dtype or (choices[0] if choices else "")
    name = out.absolute().name
    return Request(cast("Kind", kind), form, cast("Weights", weights), name, tolerance)


def look_at_run(folder: AdapterFolder) -> tuple[RunFacts, list[Item]]:
    """What is known of an adapter's run, and its evaluation rows if they can be read."""
    run = folder.run
    has = (run / TrainingResult.FILE).is_file()
    result = TrainingResult.load(run) if has else None
    data = DataRecord.load(run) if (run / DataRecord.FILE).is_file() else None
    probes = ProbesFile.of(folder.path)
    if not (run / CONFIG_FILE).is_file():
        return RunFacts(result, data, probes), []
    config = read_config(run / CONFIG_FILE)
    settings = {name: value for name, value in config.flat().items() if name.startswith(IN_CARD)}
    source = public_source(config.data.train)
    items = evaluation_items(run, config) if data is not None else []
    return RunFacts(result, data, probes, source, settings), items


def evaluation_items(run: Path, config: Config) -> list[Item]:
    """The evaluation rows of a run, without their labels; none if they cannot be read again."""
    try:
        train, evaluation = load_rows_of(config)
        require_same_rows(run, DataRecord.of(train, evaluation))
    except (DataError, UsageError) as error:
        say(f"compared on public texts only: the run's rows cannot be read ({error.problem})")
        return []
    return list(evaluation.inputs)


# --- with a model --------------------------------------------------------------------------------


def write_model(
    classifier: Classifier,
    folder: AdapterFolder,
    reference: BaseReference,
    request: Request,
    out: Path,
) -> None:
    """Write base and adapter as one model, with the tokenizer."""
    write_tokenizer(classifier, out)
    model = merged_model(folder, reference, request.weights, request.form)
    name_answers(model, classifier.labels, classifier.prompter.label_ids[0][-1])
    if request.kind == "onnx":
        write_onnx(model, out)
    else:
        model.save_pretrained(str(out))


def write_file(
    script: Path,
    classifier: Classifier,
    folder: AdapterFolder,
    reference: BaseReference,
    request: Request,
    prompt: PromptFile,
    out: Path,
) -> None:
    """Write base and adapter as one GGUF file, with a Modelfile. script: llama.cpp's converter."""
    file = gguf_name(request.form)
    with TemporaryDirectory(dir=out) as name:
        write_model(
            classifier,
            folder,
            reference,
            replace(request, kind="merged", form=DTYPES[0]),
            Path(name),
        )
        write_gguf(script, Path(name), out / file, request.form, request.name)
    (out / MODELFILE).write_text(modelfile(file, prompt), encoding="utf-8")


def score_trained(classifier: Classifier, evaluation: Sequence[Item]) -> Trained:
    """The trained model's answers to public texts and to evaluation rows."""
    rows = rows_of(classifier, evaluation)
    say(f"scored {counted(len(rows), 'row')} with the trained model on {classifier.computed_on}")
    return Trained(rows, computation_of(classifier), classifier.base.revision)


def certify(
    request: Request,
    folder: AdapterFolder,
    reference: BaseReference,
    trained: Trained,
    prompt: PromptFile,
    base_name: str,
    out: Path,
) -> Certificate:
    """The certificate of what was written to `out`. Raises `SentiloraError` over the tolerance."""
    computation = trained.computation
    form = cast("Form", request.form or computation.compute_dtype)
    runtime = load_export(out, request.kind, form, reference, computation.device)
    figures = compare(runtime, prompt, trained.rows)
    certificate = Certificate(
        kind=request.kind,
        form=form,
        weights=request.weights,
        origins=origins_of(trained.rows),
        tolerance=tolerance_of(form, request.weights, computation, runtime)
        if request.tolerance is None
        else request.tolerance,
        has_own_tolerance=request.tolerance is not None,
        labels=prompt.labels,
        adapter_sha256=folder.weights_digest(),
        base=base_name,
        base_revision=trained.revision,
        trained=computation,
        sha256=digests_of(out),
        versions=versions_of(runtime.packages),
        **asdict(figures),
    )
    certificate.require_within(figures)
    return certificate


def upload(out: Path, repository: str) -> None:
    """Upload an export to the hub. Raises `DataError` when that fails; the folder stays."""
    from huggingface_hub import HfApi

    api: Any = HfApi()
    try:
        api.create_repo(repository, exist_ok=True)
        api.upload_folder(folder_path=str(out), repo_id=repository)
    except Exception as error:  # what the hub's client raises has no common class
        raise DataError(
            f"{quoted(out)} is written, but not uploaded to {quoted(repository)} "
            f"({first_line(error)})",
            setting="push_to_hub",
            seen=repository,
            remedy="set HF_TOKEN to a token that may write there, or upload the folder yourself",
        ) from error
