"""What the model's process holds: one base, and the adapters that are served on it."""

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch

from sentilora.errors import UsageError
from sentilora.folders.adapter_folder import AdapterFolder
from sentilora.folders.classifier_file import BaseReference, may_stand_for
from sentilora.folders.probes_file import ProbesFile
from sentilora.models.adapters import load_another_adapter
from sentilora.models.base_source import KEYWORDS
from sentilora.models.bases import Base
from sentilora.models.runtime import Runtime
from sentilora.progress import say
from sentilora.prompt import Prompter
from sentilora.scoring.classifier import Classifier
from sentilora.scoring.labels import LabelScorer
from sentilora.scoring.probes import Agreement, Scoring, verify_probes
from sentilora.template import TEXT
from sentilora.wording import quoted

NUM_QUESTIONS = 64  # of the base, whose scorers are kept
# Tokens of a pass. On two cores more do not raise the rate, but the time that a text waits
# (docs/results.md has none for GPUs yet).
CPU_PASS_TOKENS, GPU_PASS_TOKENS = 4096, 16384
# Warm-up: texts of a sentence, a paragraph and a page, alone and together.
WARM_UP = ("A lovely film. ", "A lovely film. " * 16, "A lovely film. " * 64)


@dataclass
class _Another:
    """An adapter on the base of the first one."""

    base: Base
    reference: BaseReference
    runtime: Runtime
    prompter: Prompter
    scorer: LabelScorer


class LoadedModels:
    """The adapters on their base, by key, and the base itself, whose key is None.

    The first adapter loads the base. Each of the others must belong to the same one. All must
    answer as their `probes.json` says that they did at the end of training.
    """

    def __init__(self, key: str, path: str, **options: Any) -> None:
        folder = AdapterFolder.open(path)
        self.classifier = Classifier.load(folder, **options)  # raises if probes disagree
        _warn_if_unchecked(folder, self.classifier.agreement)
        self._names = {key: "default"}  # PEFT's names of the adapters
        own = folder.classifier
        # Of the base as it was loaded, and as the first adapter names it, which may differ.
        self._base_names = {self.classifier.reference.name, *([own.base.name] if own else [])}
        self._models: dict[str, Scoring] = {key: self.classifier}
        self._questions: OrderedDict[tuple[tuple[int, ...], ...], LabelScorer] = OrderedDict()
        self._active = key
        self.classifier.scorer.settle()

    @property
    def max_pass_tokens(self) -> int:
        """Tokens of a pass that make good use of the device."""
        return GPU_PASS_TOKENS if self.classifier.base.device == "cuda" else CPU_PASS_TOKENS

    @property
    def num_copies(self) -> int:
        """How many passes are best scored side by side, each with one thread; 0 on a GPU."""
        engine = self.classifier.scorer.engine
        if self.classifier.base.device != "cpu" or engine is None:
            return 0
        if engine.keep_layers < len(engine.layers):  # each would decode the weights for itself
            return 0
        number = torch.get_num_threads()
        return number if number > 1 else 0

    def warm_up(self, key: str) -> list[tuple[int, float]]:
        """Score sample texts with an adapter; (tokens, seconds) of each pass."""
        prompter = self._models[key].prompter
        columns = prompter.format.columns
        items = [dict.fromkeys((TEXT, *columns), x) if columns else x for x in WARM_UP]
        ids = [prompter.encode(item).input_ids for item in items]
        times = []
        for prompts in ([ids[0]], [ids[1]], [ids[2]], [ids[1], ids[2]] * 4):
            started = perf_counter()
            self.score(prompts, {"key": key})
            times.append((sum(map(len, prompts)), perf_counter() - started))
        return times

    def add(self, key: str, path: str) -> None:
        """Load one more adapter, and check that it answers as it was trained.

        Raises `DataError` or `UsageError`; then nothing has changed.
        """
        folder = AdapterFolder.open(path)
        record = folder.require_classifier()
        base = self.classifier.base
        name = self.classifier.reference.name
        if not any(may_stand_for(record.base.name, one) for one in self._base_names):
            raise UsageError(
                f"the adapter in {quoted(path)} belongs to another base",
                setting="adapter",
                seen=path,
                remedy=f"serve it by itself, or choose one that was trained on {quoted(name)}",
            )
        prompter = Prompter(base.tokenizer, record.prompt)
        if prompter.label_ids != record.label_ids:
            raise UsageError(
                f"the adapter in {quoted(path)} was trained with other label tokens",
                setting="adapter",
                seen=path,
                remedy="serve it on the base that it was trained on",
            )
        load_another_adapter(self._peft_model, folder, key, spelling=KEYWORDS)
        scorer = self._scorer(prompter.label_ids)
        runtime, reference = self.classifier.runtime, self.classifier.reference
        self._names[key] = key
        self._models[key] = _Another(base, reference, runtime, prompter, scorer)
        try:
            self._activate(key)
            _warn_if_unchecked(folder, verify_probes(self._models[key], folder))
        except BaseException:
            self.drop(key)
            raise

    def drop(self, key: str) -> None:
        """Free an adapter's memory. It must not be the last one."""
        if self._active == key:
            self._activate(next(other for other in self._names if other != key))
        self._peft_model.delete_adapter(self._names.pop(key))
        del self._models[key]

    def score(self, prompts: Sequence[list[int]], group: Mapping[str, Any]) -> list[list[float]]:
        """Log-probabilities of the labels after each prompt, before any temperature.

        group: `key` of the adapter, None for the base. `label_ids`: other labels than the
        adapter's own. `whole`: whether every label is scored. `temperature`: the classifier's.
        """
        key = group["key"]
        options: dict[str, Any] = {"max_left_out": 0.0 if group.get("whole") else None}
        options["temperature"] = max(1.0, group.get("temperature", 1.0))
        if key is not None:
            self._activate(key)
            return self._models[key].scorer.score(prompts, **options).log_probs.tolist()
        scorer = self._question(group["label_ids"])
        with self._base_alone(scorer):
            return scorer.score(prompts, **options).log_probs.tolist()

    @property
    def _peft_model(self) -> Any:
        return self.classifier.model

    def _scorer(self, label_ids: Sequence[Sequence[int]]) -> LabelScorer:
        classifier = self.classifier
        return LabelScorer(
            classifier.model,
            label_ids,
            classifier.base.pad_token_id,
            classifier.base.dtype,
            classifier.runtime,
            classifier.scorer.engine,
        )

    def _question(self, label_ids: Sequence[Sequence[int]]) -> LabelScorer:
        """The scorer of a question to the base; the last ones are kept."""
        key = tuple(map(tuple, label_ids))
        scorer = self._questions.pop(key, None) or self._scorer(label_ids)
        self._questions[key] = scorer
        if len(self._questions) > NUM_QUESTIONS:
            self._questions.popitem(last=False)
        return scorer

    def _activate(self, key: str) -> None:
        if key != self._active:
            self._peft_model.set_adapter(self._names[key])
            self._active = key
            self._models[key].scorer.settle()

    @contextmanager
    def _base_alone(self, scorer: LabelScorer) -> Iterator[None]:
        """The base without any adapter within a `with` block."""
        try:
            with self.classifier.adapter_disabled():
                scorer.settle()
                yield
        finally:
            self._models[self._active].scorer.settle()


def _warn_if_unchecked(folder: AdapterFolder, agreement: Agreement | None) -> None:
    """Report that an adapter is served although nothing says how it answered in training."""
    if agreement is None:
        say(
            f"warning: the adapter in {quoted(folder.path)} has no {ProbesFile.FILE}, so it is not "
            "known whether it answers as it was trained"
        )
