"""A trained classifier: an adapter on its base, asked for labels and probabilities.

    classifier = Classifier.load("./mistral-sentiment-ita")
    classifier.predict(["A lovely film."])          # ["positive"]
    classifier.predict_proba(["A lovely film."])    # array of shape (1, labels)

The one door from texts to answers: whoever scores texts does it through `Classifier.score`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self, Unpack

from sentilora.data.text import require_text
from sentilora.errors import UsageError
from sentilora.folders.adapter_folder import AdapterFolder
from sentilora.folders.classifier_file import BaseReference, Calibration, ClassifierFile
from sentilora.models.adapters import load_adapter
from sentilora.models.bases import Base, load_base
from sentilora.models.fast_path import install_engine
from sentilora.models.runtime import Runtime, RuntimeOverrides
from sentilora.prompt import Prompter, PromptFormat
from sentilora.scoring.answers import TEXTS_AT_ONCE, Prediction, answer, at_temperature
from sentilora.shipped import shipped_adapter

if TYPE_CHECKING:
    import numpy as np
    from peft import PeftModel
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Scores:
    """Scores of consecutive texts. log_probs: of the labels, float64 (texts, labels), before any
    temperature; base_log_probs: of the base without its adapter, None where not asked for.
    truncated: bool (texts,), whether part of a text was left out to fit `max_length`.
    """

    log_probs: "np.ndarray"
    base_log_probs: "np.ndarray | None"
    truncated: "np.ndarray"


class Classifier:
    """A base, with or without an adapter, that answers with one of its labels, or abstains.

    One thread owns a classifier: it must not be asked from two threads at once.
    """

    def __init__(
        self,
        base: Base,
        model: "PreTrainedModel | PeftModel",
        format: PromptFormat,
        reference: BaseReference,
        runtime: Runtime | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        from sentilora.scoring.labels import LabelScorer

        self.base = base
        self.model = model
        self.reference = reference
        self.runtime = runtime or Runtime()
        self.calibration = calibration or Calibration()
        self.prompter = Prompter(base.tokenizer, format)
        self.scorer = LabelScorer(
            model,
            self.prompter.label_ids,
            base.pad_token_id,
            base.dtype,
            self.runtime,
            install_engine(model, self.runtime),
        )

    @classmethod
    def load(
        cls,
        path: str | Path | AdapterFolder | None = None,
        *,
        labels: Sequence[str] | None = None,
        template: str | None = None,
        **overrides: Unpack[RuntimeOverrides],
    ) -> Self:
        """The adapter in `path` on its base; without `path` the one that ships with the package.

        A plain PEFT adapter, without `classifier.json`, needs `labels` and `template` as it was
        trained with; in `template`, `{text}` stands for the text. overrides: keywords of
        `Runtime`; what is None or left out is as in training, where that was recorded, else as
        `Runtime` has it. Raises `DataError` when adapter or base cannot be read, `UsageError` when
        they do not fit each other or this machine cannot do what is asked for.
        """
        Runtime().override(**overrides).require_possible()  # before anything is read
        folder = (
            path
            if isinstance(path, AdapterFolder)
            else AdapterFolder.open(path if path is not None else shipped_adapter())
        )
        stored = folder.classifier
        format = _format_of(folder, labels, template)
        if stored is None:
            reference = BaseReference(folder.peft.base_model_name_or_path)
        else:
            reference = stored.base
        runtime = Runtime.for_scoring(stored.runtime if stored else None, overrides)
        base = load_base(reference, runtime)
        return cls._on_base(folder, base, format, reference, runtime)

    @classmethod
    def on_base(cls, folder: AdapterFolder, base: Base, runtime: Runtime) -> Self:
        """The adapter of a folder with `classifier.json` on its base, which is loaded already."""
        stored = folder.classifier
        if stored is None:
            raise UsageError(f"{folder.path} has no {ClassifierFile.FILE}")
        return cls._on_base(folder, base, stored.prompt, stored.base, runtime)

    @classmethod
    def _on_base(
        cls,
        folder: AdapterFolder,
        base: Base,
        format: PromptFormat,
        reference: BaseReference,
        runtime: Runtime,
    ) -> Self:
        stored = folder.classifier
        model = load_adapter(base.model, folder)
        calibration = stored.calibration if stored is not None else None
        classifier = cls(base, model, format, reference, runtime, calibration)
        if stored is not None and stored.label_ids != classifier.prompter.label_ids:
            raise UsageError(
                f"the adapter in {folder.path} was trained with label tokens {stored.label_ids}, "
                f"the tokenizer of {reference.name!r} gives {classifier.prompter.label_ids}",
                setting="base.name",
                seen=reference.name,
                remedy="it is another base or revision",
            )
        return classifier

    @classmethod
    def from_base(
        cls, name: str, format: PromptFormat | None = None, runtime: Runtime | None = None
    ) -> Self:
        """A base without adapter, in NF4: what it knows before any training."""
        reference, runtime = BaseReference(name), runtime or Runtime()
        runtime.require_possible()
        base = load_base(reference, runtime)
        return cls(base, base.model, format or PromptFormat(), reference, runtime)

    @property
    def computed_on(self) -> str:
        """Device and dtype, and how many products were in 8 bits when it last scored."""
        parts = [self.base.device, str(self.base.dtype).removeprefix("torch.")]
        engine = self.scorer.engine
        if engine is not None and engine.is_usable():
            rounded, every = engine.products_in_8_bits()
            if rounded:
                parts.append("8-bit products" + (f" ({rounded} of {every})" * (rounded < every)))
        return ", ".join(parts)

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels, in the order of `predict_proba`'s columns."""
        return self.prompter.format.labels

    def predict(self, texts: Sequence[str]) -> list[str]:
        """The likeliest label of each text, or "abstain": see `Prediction`."""
        return [prediction.label for prediction in self.classify(texts)]

    def predict_proba(
        self, texts: Sequence[str], progress: Callable[[int], object] | None = None
    ) -> "np.ndarray":
        """Probabilities of the labels, normalized over them: float64 of shape (texts, labels).

        Raises `DataError` for an empty text or one that is not valid Unicode, `UsageError` for a
        single string in the place of a list.
        """
        import numpy as np

        pieces = [self._probabilities(piece) for piece in self.score(texts, progress)]
        return np.concatenate(pieces) if pieces else np.empty((0, len(self.labels)))

    def classify(
        self, texts: Sequence[str], progress: Callable[[int], object] | None = None
    ) -> list[Prediction]:
        """Label, probabilities and truncation of each text."""
        texts = _checked(texts)
        predictions: list[Prediction] = []
        for piece in self._pieces(texts, progress):
            for row, cut in zip(self._probabilities(piece), piece.truncated, strict=True):
                predictions.append(
                    Prediction(
                        text=texts[len(predictions)],
                        label=answer(row, self.labels, self.calibration.abstain_below),
                        probabilities=dict(zip(self.labels, row.tolist(), strict=True)),
                        truncated=bool(cut),
                    )
                )
        return predictions

    def score(
        self,
        texts: Sequence[str],
        progress: Callable[[int], object] | None = None,
        *,
        with_base: bool = False,
    ) -> Iterator[Scores]:
        """Scores of the texts in order, in pieces of at most `TEXTS_AT_ONCE` texts.

        Prompts exist for one piece at a time. `progress` is called with the number of texts after
        each batch of each model. with_base: score the base without its adapter, too.
        """
        return self._pieces(_checked(texts), progress, with_base)

    def _pieces(
        self,
        texts: list[str],
        progress: Callable[[int], object] | None,
        with_base: bool = False,
    ) -> Iterator[Scores]:
        import numpy as np

        for start in range(0, len(texts), TEXTS_AT_ONCE):
            prompts = [self.prompter.encode(text) for text in texts[start : start + TEXTS_AT_ONCE]]
            ids = [prompt.input_ids for prompt in prompts]
            log_probs, of_base = self.scorer.log_probs(ids, progress).numpy(), None
            if with_base:
                with self.adapter_disabled():
                    of_base = self.scorer.log_probs(ids, progress).numpy()
            truncated = np.array([prompt.truncated for prompt in prompts])
            yield Scores(log_probs, of_base, truncated)

    def _probabilities(self, scores: Scores) -> "np.ndarray":
        return at_temperature(scores.log_probs, self.calibration.temperature)

    @contextmanager
    def adapter_disabled(self) -> Iterator[None]:
        """Within, the classifier is its base with the adapter switched off."""
        from peft import PeftModel

        if not isinstance(self.model, PeftModel):
            raise UsageError("this classifier is a base without adapter")
        with self.model.disable_adapter():
            yield


def _format_of(
    folder: AdapterFolder, labels: Sequence[str] | None, template: str | None
) -> PromptFormat:
    """The prompt that an adapter was trained with, from its folder or as it is given."""
    name = ClassifierFile.FILE
    if folder.classifier is not None:
        if labels is not None or template is not None:
            raise UsageError(
                f"{folder.path} has its labels and template in {name}",
                setting="template" if labels is None else "labels",
                remedy="leave out `labels` and `template`",
            )
        return folder.classifier.prompt
    if labels is None or template is None:
        raise UsageError(
            f"{folder.path} is a plain PEFT adapter without {name}",
            setting="labels" if labels is None else "template",
            remedy="say what it was trained with: `labels` and `template` ({text} stands for the "
            "text)",
        )
    return PromptFormat(template=template, labels=tuple(labels))


def _checked(texts: object) -> list[str]:
    """The texts as a list, each one usable."""
    if isinstance(texts, str):
        raise UsageError("a list of texts is expected, not one string; write [text]")
    if isinstance(texts, Mapping) or not isinstance(texts, Iterable):
        raise UsageError(f"a list of texts is expected, not {type(texts).__name__}")
    texts = list(texts)
    for number, text in enumerate(texts):
        require_text(text, f"texts[{number}]")
    return texts
