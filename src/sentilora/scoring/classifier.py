"""A trained classifier: an adapter on its base, asked for labels and probabilities.

classifier = Classifier.load("./mistral-sentiment-ita")
classifier.predict(["A lovely film."])          # ["positive"]
classifier.predict_proba(["A lovely film."])    # array of shape (1, labels)
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self

from sentilora.data.text import require_text
from sentilora.errors import UsageError
from sentilora.folders.adapter_folder import adapter_base_name, check_adapter_folder
from sentilora.folders.classifier_file import (
    CLASSIFIER_FILE,
    BaseReference,
    Calibration,
    ClassifierFile,
)
from sentilora.models.adapters import load_adapter
from sentilora.models.bases import Base, load_base
from sentilora.models.device import require_device
from sentilora.models.fast_path import install_engine, require_engine
from sentilora.prompt import Prompter, PromptFormat
from sentilora.scoring.answers import ABSTAIN, Prediction, at_temperature
from sentilora.shipped import shipped_adapter

if TYPE_CHECKING:
    import numpy as np
    from peft import PeftModel
    from transformers import PreTrainedModel


class Classifier:
    """A base, with or without an adapter, that answers with one of its labels, or abstains."""

    def __init__(
        self,
        base: Base,
        model: "PreTrainedModel | PeftModel",
        format: PromptFormat,
        reference: BaseReference,
        batch_size: int = 16,
        calibration: Calibration | None = None,
        base_matmul: str = "exact",
    ) -> None:
        from sentilora.scoring.labels import LabelScorer

        self.base = base
        self.model = model
        self.reference = reference
        self.calibration = calibration or Calibration()
        self.prompter = Prompter(base.tokenizer, format)
        self.scorer = LabelScorer(
            model,
            self.prompter.label_ids,
            base.pad_token_id,
            base.dtype,
            batch_size,
            install_engine(model, base_matmul=base_matmul),
        )

    @classmethod
    def load(
        cls,
        path: str | Path | None = None,
        *,
        device: str = "auto",
        compute_dtype: str = "auto",
        batch_size: int = 16,
        labels: Sequence[str] | None = None,
        template: str | None = None,
        base_matmul: str = "exact",
    ) -> Self:
        """The adapter in `path` on its base; without `path` the one that ships with the package.

        A plain PEFT adapter, without `classifier.json`, needs `labels` and `template` as it was
        trained with, in `template` `{text}` stands for the text. base_matmul: "fp8" for products
        with the base's weights in 8 bits, on Ada and Hopper GPUs: faster, not exact. Raises
        `DataError` when adapter or base cannot be read, `UsageError` when they do not fit each
        other or the GPU has no such products.
        """
        require_engine("auto", base_matmul, device=device)
        folder = Path(os.path.expanduser(path if path is not None else shipped_adapter()))
        check_adapter_folder(folder)
        stored = None
        if (folder / CLASSIFIER_FILE).is_file():
            if labels is not None or template is not None:
                raise UsageError(
                    f"{folder} has its labels and template in {CLASSIFIER_FILE}; leave out "
                    "--labels and --template"
                )
            stored = ClassifierFile.load(folder)
            format, reference = stored.prompt, stored.base
        elif labels is None or template is None:
            raise UsageError(
                f"{folder} is a plain PEFT adapter without {CLASSIFIER_FILE}; say what it was "
                "trained with: --labels and --template ({text} stands for the text)"
            )
        else:
            format = PromptFormat(template=template, labels=tuple(labels))
            reference = BaseReference(adapter_base_name(folder))
        base = _load_reference(reference, device, compute_dtype)
        model = load_adapter(base.model, folder)
        calibration = stored.calibration if stored is not None else None
        classifier = cls(base, model, format, reference, batch_size, calibration, base_matmul)
        if stored is not None and stored.label_ids != classifier.prompter.label_ids:
            raise UsageError(
                f"the adapter in {folder} was trained with label tokens {stored.label_ids}, the "
                f"tokenizer of {reference.name!r} gives {classifier.prompter.label_ids}; it is "
                "another base or revision"
            )
        return classifier

    @classmethod
    def from_base(
        cls,
        name: str,
        format: PromptFormat | None = None,
        *,
        device: str = "auto",
        compute_dtype: str = "auto",
        batch_size: int = 16,
        base_matmul: str = "exact",
    ) -> Self:
        """A base without adapter, in NF4: what it knows before any training."""
        require_engine("auto", base_matmul, device=device)
        reference = BaseReference(name)
        base = _load_reference(reference, device, compute_dtype)
        format = format or PromptFormat()
        return cls(base, base.model, format, reference, batch_size, base_matmul=base_matmul)

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
        return self._score(texts, progress)[0]

    def classify(
        self, texts: Sequence[str], progress: Callable[[int], object] | None = None
    ) -> list[Prediction]:
        """Label, probabilities and truncation of each text."""
        probabilities, truncated = self._score(texts, progress)
        threshold = self.calibration.abstain_below
        return [
            Prediction(
                label=self.labels[int(row.argmax())] if row.max() >= threshold else ABSTAIN,
                probabilities=dict(zip(self.labels, row.tolist(), strict=True)),
                truncated=cut,
            )
            for row, cut in zip(probabilities, truncated, strict=True)
        ]

    def _score(
        self, texts: Sequence[str], progress: Callable[[int], object] | None
    ) -> tuple["np.ndarray", list[bool]]:
        import numpy as np

        if isinstance(texts, str):
            raise UsageError("a list of texts is expected, not one string; write [text]")
        if isinstance(texts, Mapping) or not isinstance(texts, Iterable):
            raise UsageError(f"a list of texts is expected, not {type(texts).__name__}")
        texts = list(texts)
        if not len(texts):  # nothing to choose a way of scoring by
            return np.empty((0, len(self.labels))), []
        for number, text in enumerate(texts):
            require_text(text, f"texts[{number}]")
        prompts = [self.prompter.encode(text) for text in texts]
        scores = self.scorer.log_probs([prompt.input_ids for prompt in prompts], progress)
        probabilities = at_temperature(scores.numpy(), self.calibration.temperature)
        return probabilities, [prompt.truncated for prompt in prompts]

    @contextmanager
    def adapter_disabled(self) -> Iterator[None]:
        """Within, the classifier is its base with the adapter switched off."""
        from peft import PeftModel

        if not isinstance(self.model, PeftModel):
            raise UsageError("this classifier is a base without adapter")
        with self.model.disable_adapter():
            yield


def _load_reference(reference: BaseReference, device: str, compute_dtype: str) -> Base:
    require_device(device)
    return load_base(
        reference.name,
        revision=reference.revision,
        device=device,
        quantization=reference.quantization,
        double_quantization=reference.double_quantization,
        compute_dtype=compute_dtype,
    )
