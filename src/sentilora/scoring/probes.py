"""Whether a loaded classifier answers as it did at the end of its training.

    save_probes(classifier, folder)      # at the end of training
    verify_probes(classifier, folder)    # when it is loaded: raises if it answers otherwise

What the probabilities may differ by at most depends on how they were computed, in training and now.
Measured is the largest difference of a probe's probability, by `bench/probes.py` with the adapter
that ships (2026-11-28, Xeon with AVX-512, H200).

    computed in                                    limit   measured
    float32 twice, same device, engine, attention  1e-5    0 to 2e-9; 2e-6 with AVX2, or without AVX
    float32, fast layers and plain ones            1e-4    5e-6
    float32, other attention                       1e-4    1.4e-6
    float32, GPU and CPU, or two kinds of GPU      1e-4    2.5e-6; two kinds of GPU not yet
    bfloat16, at least once                        0.1     0.028 to float32; 0.038 fast to plain
    float16, at least once, and no bfloat16        0.02    0.0019 to float32
    8-bit products, at least once                  0.25    4e-4, a random base of 7B

A wrong base, adapter or prompt moves some probability by more than 0.25 unless training changed
next to nothing. A base in another quantization has no limit: its difference is only reported.
"""

import hashlib
import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sentilora.data.text import Item, beginning, text_of
from sentilora.errors import DataError
from sentilora.folders.adapter_folder import AdapterFolder
from sentilora.folders.classifier_file import BaseReference, ClassifierFile
from sentilora.folders.probes_file import FORMAT_VERSION, Computation, ProbesFile
from sentilora.hub import is_gguf
from sentilora.models.bases import Base
from sentilora.models.runtime import Runtime
from sentilora.progress import detail, say
from sentilora.prompt import Prompter, PromptFormat
from sentilora.scoring.answers import at_temperature
from sentilora.scoring.probe_texts import probe_items
from sentilora.template import TEXT
from sentilora.version import __version__
from sentilora.wording import counted, quoted

if TYPE_CHECKING:
    import numpy as np

    from sentilora.scoring.labels import LabelScorer

PACKAGES = ("torch", "transformers", "peft", "bitsandbytes")
SAME_FLOAT32 = 1e-5
OTHER_FLOAT32 = 1e-4
IN_FLOAT16 = 0.02
IN_BFLOAT16 = 0.1
IN_8_BITS = 0.25
ITS_BASE = "load it on the base that it was trained on"


class Scoring(Protocol):
    """What probes need of a classifier."""

    base: Base
    reference: BaseReference
    runtime: Runtime
    prompter: Prompter
    scorer: "LabelScorer"


@dataclass(frozen=True)
class Agreement:
    """How well a loaded classifier agrees with what it answered at the end of training.

    difference: the largest one between two probabilities. tolerance: what it may be at most.
    in_training: how those answers were computed. now: how these were.
    """

    difference: float
    tolerance: float
    in_training: Computation
    now: Computation


def tolerance(first: Computation, second: Computation) -> float:
    """The largest difference between probabilities that two computations account for."""
    pair = (first, second)
    dtypes = {one.compute_dtype for one in pair}
    if any(one.base_matmul != "exact" for one in pair):
        return IN_8_BITS
    if "bfloat16" in dtypes:
        return IN_BFLOAT16
    if "float16" in dtypes:
        return IN_FLOAT16
    return SAME_FLOAT32 if first == second else OTHER_FLOAT32


def save_probes(classifier: Scoring, folder: Path) -> None:
    """Score the probe texts and write `probes.json` into the adapter's folder."""
    items = _fitting(classifier.prompter)
    prompts = _prompts(classifier, items)
    log_probs = _log_probs(classifier, prompts)
    ProbesFile(
        format_version=FORMAT_VERSION,
        computation=computation_of(classifier),
        versions={"sentilora": __version__, **{name: version(name) for name in PACKAGES}},
        prompt_sha256=_prompt_digest(classifier.prompter.format, items),
        tokens_sha256=_tokens_digest(classifier.prompter, prompts),
        labels=list(classifier.prompter.format.labels),
        texts=[item if isinstance(item, str) else dict(item) for item in items],
        log_probs=log_probs.round(8).tolist(),
    ).save(folder)


def verify_probes(classifier: Scoring, folder: AdapterFolder) -> Agreement | None:
    """How well a classifier agrees with its adapter's `probes.json`; None if there is none.

    A base in another quantization than in training answers differently, and only a warning says by
    how much. Raises `DataError` for any other difference beyond the tolerance.
    """
    import numpy as np

    if folder.classifier is None:  # labels and template are the caller's word
        return None
    probes = ProbesFile.of(folder.path)
    if probes is None:
        return None
    items: list[Item] = list(probes.texts)
    if probes.prompt_sha256 != _prompt_digest(classifier.prompter.format, items):
        raise _not_as_trained(
            folder,
            "its labels, or another part of its prompt, have changed since",
            f"restore {ClassifierFile.FILE} (each checkpoint-N folder of the run has a copy)",
        )
    prompts = _prompts(classifier, items)
    if probes.tokens_sha256 != _tokens_digest(classifier.prompter, prompts):
        raise _not_as_trained(
            folder, "its base's tokenizer reads texts otherwise than in training", ITS_BASE
        )
    expected = at_temperature(np.array(probes.log_probs), 1.0)
    seen = at_temperature(_log_probs(classifier, prompts), 1.0)
    differences = abs(seen - expected)
    now = computation_of(classifier)
    agreement = Agreement(
        float(differences.max()), tolerance(probes.computation, now), probes.computation, now
    )
    if probes.computation.weights != now.weights:
        say(
            f"warning: probabilities differ by up to {agreement.difference:.2g} from those of "
            f"training, which had its base in {probes.computation.weights}, not {now.weights} "
            f"({counted(len(items), 'probe text')})"
        )
    elif agreement.difference > agreement.tolerance:
        raise _disagreement(folder, probes, agreement, seen, expected)
    detail(
        f"{counted(len(items), 'probe text')}: probabilities differ by up to "
        f"{agreement.difference:.2g} from those of training; the limit is {agreement.tolerance:g}"
    )
    return agreement


def probe_probabilities(classifier: Scoring, probes: ProbesFile) -> "np.ndarray":
    """A classifier's probabilities (texts, labels) for the texts of a record, unchecked."""
    return at_temperature(_log_probs(classifier, _prompts(classifier, probes.texts)), 1.0)


def computation_of(classifier: Scoring) -> Computation:
    """On what, and how, a classifier computes."""
    import torch

    base, engine = classifier.base, classifier.scorer.engine
    on_gpu = base.device == "cuda"
    dtype: Any = str(base.dtype).removeprefix("torch.")
    device: Any = base.device
    origin = " from GGUF" if is_gguf(classifier.reference.name) else ""
    return Computation(
        device=device,
        device_name=torch.cuda.get_device_name() if on_gpu else platform.machine(),
        compute_dtype=dtype,
        attn_implementation=classifier.runtime.attn_implementation,
        engine="fast" if engine is not None and engine.is_usable() else "reference",
        base_matmul=classifier.runtime.base_matmul,
        weights=f"{classifier.reference.quantization}{origin}",
    )


def _fitting(prompter: Prompter) -> list[Item]:
    """The probe items, without the values of other columns where these would leave no room."""
    items = []
    for item in probe_items(prompter.format.columns):
        try:
            prompter.encode(item)
        except DataError:
            item = {TEXT: text_of(item), **dict.fromkeys(prompter.format.columns, "")}
        items.append(item)
    return items


def _prompts(classifier: Scoring, items: Sequence[Item]) -> list[list[int]]:
    return [classifier.prompter.encode(item).input_ids for item in items]


def _log_probs(classifier: Scoring, prompts: list[list[int]]) -> "np.ndarray":
    """Log-probabilities of the labels, with the default bound on what is left out."""
    scores = classifier.scorer.score(prompts, max_left_out=Runtime().max_left_out)
    return scores.log_probs.numpy()


def _prompt_digest(format: PromptFormat, items: Sequence[Item]) -> str:
    return _digest([format.to_dict(), list(items)])


def _tokens_digest(prompter: Prompter, prompts: list[list[int]]) -> str:
    return _digest([prompts, prompter.label_ids])


def _digest(content: object) -> str:
    text = json.dumps(content, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


# --- errors --------------------------------------------------------------------------------------


def _not_as_trained(folder: AdapterFolder, fault: str, remedy: str) -> DataError:
    return DataError(
        f"the adapter in {quoted(folder.path)} does not answer as it was trained: {fault}",
        setting="adapter",
        seen=str(folder.path),
        remedy=f"{remedy}, or remove {ProbesFile.FILE} to load it unchecked",
    )


def _disagreement(
    folder: AdapterFolder,
    probes: ProbesFile,
    agreement: Agreement,
    seen: "np.ndarray",
    expected: "np.ndarray",
) -> DataError:
    """The error for probabilities that are too far from those of training."""
    row, column = divmod(int(abs(seen - expected).argmax()), len(probes.labels))
    text = beginning(text_of(probes.texts[row]), 40)
    then, now = agreement.in_training, agreement.now
    return _not_as_trained(
        folder,
        f"for {text!r} the probability of {probes.labels[column]!r} was "
        f"{expected[row, column]:.6f} and is {seen[row, column]:.6f}; {_kind_of(then)} then and "
        f"{_kind_of(now)} now explain at most {agreement.tolerance:g}",
        ITS_BASE,
    )


def _kind_of(computation: Computation) -> str:
    kind = computation.compute_dtype if computation.base_matmul == "exact" else "8-bit products"
    return f"{kind} on {computation.device_name}"
