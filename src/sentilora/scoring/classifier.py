"""A trained classifier: an adapter on its base that gives labels and probabilities.

    classifier = Classifier.load("./mistral-sentiment-ita")
    classifier.predict(["A lovely film."])          # ["positive"]
    classifier.predict_proba(["A lovely film."])    # array of shape (1, labels)

All scoring of texts goes through `Classifier.score`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self, Unpack

from sentilora.data.memory import column_names, is_table, records_of
from sentilora.data.text import Item, text_of
from sentilora.errors import UsageError
from sentilora.folders.adapter_folder import AdapterFolder
from sentilora.folders.classifier_file import (
    BaseReference,
    Calibration,
    ClassifierFile,
    require_base_keywords,
)
from sentilora.models.adapters import Values, adapter_disabled, base_values, load_adapter
from sentilora.models.base_source import KEYWORDS, SETTINGS, Spelling
from sentilora.models.bases import Base, load_base
from sentilora.models.fast_path import install_engine
from sentilora.models.runtime import Runtime, RuntimeOverrides
from sentilora.progress import say
from sentilora.prompt import Prompter, PromptFormat
from sentilora.scoring.answers import (
    TEXTS_AT_ONCE,
    Prediction,
    Scores,
    answer,
    at_temperature,
    set_of,
)
from sentilora.scoring.probes import Agreement, verify_probes
from sentilora.shipped import shipped_adapter
from sentilora.template import TEXT
from sentilora.wording import listed, quoted, with_article

if TYPE_CHECKING:
    import numpy as np
    from peft import PeftModel
    from transformers import PreTrainedModel


class Classifier:
    """A base, with or without an adapter, that answers with one of its labels or abstains.

    agreement: how well it answers as at the end of its training; None if that was not checked.
    prior: probabilities of the labels that scores are relative to, (labels,); None for none.
    least_probability: that of a label in a prediction's set; None for no sets.
    It is not thread-safe: call it from one thread at a time.
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
        self.agreement: Agreement | None = None
        self.prior: np.ndarray | None = None
        self.least_probability: float | None = None
        self._base_values: Values = []
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
        base: str | Path | None = None,
        quantization: Literal["nf4", "none"] | None = None,
        labels: Sequence[str] | None = None,
        template: str | None = None,
        verify: bool = True,
        label_sets: float | None = None,
        **overrides: Unpack[RuntimeOverrides],
    ) -> Self:
        """The classifier of an adapter, loaded on its base.

        path: the adapter's folder; None loads the adapter that ships with the package. base: where
        its base is, if not where the adapter says. quantization: "nf4" or "none" (the base as it is
        stored), instead of what was recorded; a plain PEFT adapter, which has no `classifier.json`,
        gets "nf4". labels, template: what a plain adapter was trained with; `{text}` in the
        template stands for the text. verify: whether to score the texts of the adapter's
        `probes.json`, if it has one, and to refuse an adapter that does not answer as it was
        trained. label_sets: share of the texts whose predictions' sets are to have the true label,
        one of those that `evaluate` stored. overrides: keywords of `Runtime`. One that is None or
        missing has the value recorded in training, or else the default. Raises `DataError` when
        adapter or base cannot be read or answer otherwise, `UsageError` when they do not fit each
        other or this machine lacks what they need.
        """
        Runtime().override(**overrides).require_possible()  # before anything is read
        folder = (
            path
            if isinstance(path, AdapterFolder)
            else AdapterFolder.open(path if path is not None else shipped_adapter())
        )
        record = folder.classifier
        format = format_of(folder, labels, template)
        least_probability = folder.least_probability(label_sets)
        reference = folder.base_to_load(base, quantization)
        runtime = Runtime.for_scoring(record.runtime if record else None, overrides)
        loaded = load_base(reference, runtime, spelling=KEYWORDS)
        if record is None and quantization is None and not loaded.is_stored_quantized:
            say(
                "quantization: a plain PEFT adapter does not record it; its base is loaded in NF4, "
                'and "none" would load it unquantized'
            )
        classifier = cls._on_base(folder, loaded, format, reference, runtime, KEYWORDS)
        classifier.least_probability = least_probability
        if verify:
            classifier.agreement = verify_probes(classifier, folder)
        return classifier

    @classmethod
    def on_base(cls, folder: AdapterFolder, base: Base, runtime: Runtime) -> Self:
        """The classifier of an adapter, on its base that is already loaded.

        Raises `UsageError` when the folder has no `classifier.json`, or the base is another one.
        """
        record = folder.require_classifier()
        return cls._on_base(folder, base, record.prompt, record.base, runtime, SETTINGS)

    @classmethod
    def _on_base(
        cls,
        folder: AdapterFolder,
        base: Base,
        format: PromptFormat,
        reference: BaseReference,
        runtime: Runtime,
        spelling: Spelling,
    ) -> Self:
        record = folder.classifier
        values = base_values(base.model, folder)
        model = load_adapter(base.model, folder, spelling=spelling)
        calibration = record.calibration if record is not None else None
        classifier = cls(base, model, format, reference, runtime, calibration)
        classifier._base_values = values
        if record is not None and record.label_ids != classifier.prompter.label_ids:
            raise UsageError(
                f"the adapter in {quoted(folder.path)} was trained with label tokens "
                f"{record.label_ids}, but the tokenizer of {reference.name!r} gives "
                f"{classifier.prompter.label_ids}",
                setting="base.name",
                seen=reference.name,
                remedy=f"load it on the base that it was trained on: {spelling.name}=BASE",
            )
        return classifier

    @classmethod
    def from_base(
        cls,
        name: str | Path,
        format: PromptFormat | None = None,
        *,
        quantization: Literal["nf4", "none"] | None = None,
        **overrides: Unpack[RuntimeOverrides],
    ) -> Self:
        """The classifier of a base without an adapter, in NF4: the baseline before training.

        quantization: "none" leaves the base as it is stored. overrides: keywords of `Runtime`.
        """
        require_base_keywords(name, quantization)
        runtime = Runtime().override(**overrides)
        runtime.require_possible()
        reference = BaseReference(str(name), quantization=quantization or "nf4")
        base = load_base(reference, runtime, spelling=KEYWORDS)
        return cls(base, base.model, format or PromptFormat(), reference, runtime)

    @property
    def computed_on(self) -> str:
        """Device, dtype, and the number of products in 8 bits when it last scored."""
        parts = [self.base.device, str(self.base.dtype).removeprefix("torch.")]
        engine = self.scorer.engine
        if engine is not None and engine.is_usable():
            in_8_bits, num_products = engine.products_in_8_bits()
            if in_8_bits:
                share = f" ({in_8_bits} of {num_products})" if in_8_bits < num_products else ""
                parts.append(f"8-bit products{share}")
        return ", ".join(parts)

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels, in the order of `predict_proba`'s columns."""
        return self.prompter.format.labels

    def predict(self, texts: Sequence[Item]) -> list[str]:
        """The most probable label of each text, or "abstain". See `Prediction`.

        Where the prompt shows other columns besides the text, here and in the methods below, texts
        are records, `{"text": "…", "title": "…"}`, or a table with these columns.
        """
        threshold = self.calibration.abstain_below
        return [answer(row, self.labels, threshold) for row in self.predict_proba(texts)]

    def predict_proba(
        self, texts: Sequence[Item], progress: Callable[[int], object] | None = None
    ) -> "np.ndarray":
        """Probabilities of the labels, which sum to 1 for each text: float64 (texts, labels).

        Raises `DataError` for a text that is empty or not valid Unicode and for a record that lacks
        a column, `UsageError` for a single string instead of a list.
        """
        import numpy as np

        scores = self._calibrated_pieces(self._read(texts), progress)
        pieces = [self._probabilities(piece) for piece in scores]
        return np.concatenate(pieces) if pieces else np.empty((0, len(self.labels)))

    def classify(
        self, texts: Sequence[Item], progress: Callable[[int], object] | None = None
    ) -> list[Prediction]:
        """The prediction for each text: label, probabilities, whether it was truncated, set."""
        items, at_least = self._read(texts), self.least_probability
        predictions: list[Prediction] = []
        for piece in self._calibrated_pieces(items, progress):
            for row, truncated in zip(self._probabilities(piece), piece.truncated, strict=True):
                predictions.append(
                    Prediction(
                        text=text_of(items[len(predictions)]),
                        label=answer(row, self.labels, self.calibration.abstain_below),
                        probabilities=dict(zip(self.labels, row.tolist(), strict=True)),
                        truncated=bool(truncated),
                        label_set=None if at_least is None else set_of(row, self.labels, at_least),
                    )
                )
        return predictions

    def score(
        self,
        texts: Sequence[Item],
        progress: Callable[[int], object] | None = None,
        *,
        with_base: bool = False,
    ) -> Iterator[Scores]:
        """Scores of the texts in order, in pieces of at most `TEXTS_AT_ONCE` texts.

        What is left out cannot matter at temperature 1, whatever the classifier's own is. Only one
        piece's prompts are in memory at a time. progress: function called after each batch
        of each model with its number of texts. with_base: also score the base without its adapter.
        """
        return self._pieces(self._read(texts), progress, with_base)

    def _read(self, texts: object) -> list[Item]:
        """The texts or records as a list. Raises an error about the first unusable one."""
        format = self.prompter.format
        items = list_of_texts(texts, format.columns)
        return [format.read(item, f"texts[{i}]") for i, item in enumerate(items)]

    def _calibrated_pieces(
        self, items: list[Item], progress: Callable[[int], object] | None
    ) -> Iterator[Scores]:
        """Scores for probabilities at the classifier's temperature; a higher one raises tails."""
        return self._pieces(items, progress, temperature=max(1.0, self.calibration.temperature))

    def _pieces(
        self,
        items: list[Item],
        progress: Callable[[int], object] | None,
        with_base: bool = False,
        temperature: float = 1.0,
    ) -> Iterator[Scores]:
        import numpy as np

        for start in range(0, len(items), TEXTS_AT_ONCE):
            prompts = [self.prompter.encode(item) for item in items[start : start + TEXTS_AT_ONCE]]
            ids = [prompt.input_ids for prompt in prompts]
            scores = self.scorer.score(ids, progress, temperature=temperature)
            base_log_probs, left_out = None, scores.left_out.numpy()
            if with_base:
                with self.adapter_disabled():
                    of_base = self.scorer.score(ids, progress)
                base_log_probs = of_base.log_probs.numpy()
                left_out = np.maximum(left_out, of_base.left_out.numpy())
            truncated = np.array([prompt.truncated for prompt in prompts])
            log_probs = scores.log_probs.numpy()
            if self.prior is not None:
                log_probs = log_probs - np.log(self.prior)
            yield Scores(log_probs, base_log_probs, truncated, left_out)

    def _probabilities(self, scores: Scores) -> "np.ndarray":
        return at_temperature(scores.log_probs, self.calibration.temperature)

    @contextmanager
    def adapter_disabled(self) -> Iterator[None]:
        """Switch the adapter off within a `with` block: the classifier is its base there."""
        from peft import PeftModel

        if not isinstance(self.model, PeftModel):
            raise UsageError(
                "this classifier is a base without an adapter", remedy="load one with an adapter"
            )
        with adapter_disabled(self.model, self._base_values):
            yield


def format_of(
    folder: AdapterFolder, labels: Sequence[str] | None, template: str | None
) -> PromptFormat:
    """The prompt that an adapter was trained with, from its folder or from the arguments."""
    name = ClassifierFile.FILE
    if isinstance(labels, str):
        raise UsageError(
            f"`labels` is the single string {labels!r:.60}",
            setting="labels",
            seen=labels,
            remedy="pass a list of strings",
        )
    if folder.classifier is not None:
        if labels is not None or template is not None:
            raise UsageError(
                f"{quoted(folder.path)} has its labels and template in {name}",
                setting="template" if labels is None else "labels",
                remedy="leave out `labels` and `template`",
            )
        return folder.classifier.prompt
    if labels is None or template is None:
        raise UsageError(
            f"{quoted(folder.path)} is a plain PEFT adapter without {name}",
            setting="labels" if labels is None else "template",
            remedy="say what it was trained with: `labels` and `template` ({text} stands for the "
            "text)",
        )
    return PromptFormat(template=template, labels=tuple(labels))


def list_of_texts(texts: object, columns: Sequence[str] = ()) -> list[Item]:
    """The texts as a list, or the records. columns: what the prompt shows besides the text.

    Raises `UsageError` for one string, a mapping, and what is no series, and for a table where
    texts alone are classified.
    """
    if columns and is_table(texts):
        return records_of(texts, TEXT, columns)
    records = f"records with {', '.join((TEXT, *columns))}"
    expected = f"list of {'records' if columns else 'texts'}"
    kind, remedy = with_article(type(texts).__name__), f"pass a list of {records}"
    if isinstance(texts, str):
        kind, remedy = "one string", remedy if columns else "write [text]"
    elif names := _names_in(texts):
        noun = "column" if len(names) == 1 else "columns"
        kind = f"{kind} with the {noun} {listed(names)}"
        column = TEXT if TEXT in names else names[0]
        is_clear = column == TEXT or len(names) == 1
        if not columns:
            example = f", e.g. data[{column!r}]" if is_clear else ""
            remedy = f"pass its column of texts{example}"
    elif is_table(texts):
        remedy = "pass its column of texts"
    elif isinstance(texts, Mapping) or not isinstance(texts, Iterable):
        remedy = remedy if columns else "pass a list of strings"
    else:  # an Arrow array has a method of its own
        return texts.to_pylist() if hasattr(texts, "to_pylist") else list(texts)
    raise UsageError(
        f"a {expected} is expected, not {kind}",
        setting="texts",
        seen=texts if isinstance(texts, str) else type(texts).__name__,
        remedy=remedy,
    )


def _names_in(texts: object) -> list[str]:
    """The columns of a table or of a mapping of lists (`data[:2]` of a data set); else none."""
    if is_table(texts):
        return column_names(texts)
    if not isinstance(texts, Mapping):
        return []
    columns = (
        isinstance(value, Iterable) and not isinstance(value, str) for value in texts.values()
    )
    return list(map(str, texts)) if all(columns) else []
