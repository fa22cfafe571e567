"""The models that a server answers for: adapters by name, and their base.

The HTTP process has the tokenizer and each adapter's `classifier.json`, but no weights.
"""

import itertools
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sentilora.data.text import Item
from sentilora.errors import UsageError
from sentilora.folders.adapter_folder import AdapterFolder
from sentilora.folders.card import examples_of
from sentilora.folders.classifier_file import Calibration
from sentilora.prompt import Prompter, PromptFormat
from sentilora.serving.errors import Refusal
from sentilora.wording import quoted

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# The question of a zero-shot decision stands where an adapter's instruction would: in a column, as
# it comes from a request and its braces are no placeholders.
ZERO_SHOT = "### Instruction:\n{question}\n\n### Text:\n{text}\n\n### Answer:\n"
NUM_QUESTIONS = 64


@dataclass(eq=False)
class Served:
    """A model that answers: an adapter, or the base under a prompt.

    key: what the model's process calls the adapter; None for the base. digest: of the adapter's
    weights. examples: texts to try it with. num_active: requests that are being answered with it.
    """

    name: str
    key: str | None
    prompter: Prompter
    calibration: Calibration
    path: str | None = None
    digest: str | None = None
    examples: Sequence[Item] = ()
    num_active: int = field(default=0)

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels in the order of the probabilities."""
        return self.prompter.format.labels

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the prompt shows besides the text."""
        return self.prompter.format.columns

    @property
    def instruction(self) -> str:
        """The question that the adapter was trained on, as the prompt words it."""
        *others, last = self.labels
        words = f"{', '.join(others)} or {last}"
        return self.prompter.format.instruction.replace("{labels}", words)

    def group(self, whole: bool) -> tuple[tuple[str, object], ...]:
        """What texts must share to share a pass. whole: whether every label is scored."""
        pairs: list[tuple[str, object]] = [
            ("key", self.key),
            ("whole", whole),
            ("temperature", self.calibration.temperature),
        ]
        if self.key is None:
            pairs.append(("label_ids", tuple(map(tuple, self.prompter.label_ids))))
        return tuple(pairs)


class Registry:
    """The served models by name. The first adapter answers for the base's prompt too."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", base_name: str) -> None:
        self.tokenizer = tokenizer
        self.base_name = base_name
        self._numbers = itertools.count(1)
        self._adapters: dict[str, Served] = {}
        self._questions: OrderedDict[tuple[str, ...], Served] = OrderedDict()

    @property
    def adapters(self) -> Mapping[str, Served]:
        """The adapters by name, in the order in which they were added."""
        return self._adapters

    def read(self, name: str, folder: AdapterFolder) -> Served:
        """An adapter with a new key, not served yet. Raises `UsageError` if it cannot be served."""
        record = folder.require_classifier()
        if name == self.base_name:
            raise UsageError(
                f"an adapter cannot be called {quoted(name)}, as its base is",
                setting="adapter",
                seen=name,
                remedy="choose another name",
            )
        return Served(
            name=name,
            key=f"a{next(self._numbers)}",
            prompter=Prompter(self.tokenizer, record.prompt),
            calibration=record.calibration,
            path=str(folder.path.absolute()),
            digest=folder.weights_digest(),
            examples=examples_of(folder.path, record.prompt.columns),
        )

    def put(self, adapter: Served) -> Served | None:
        """Serve an adapter under its name from here on; returns the one it replaces."""
        before = self._adapters.get(adapter.name)
        self._adapters[adapter.name] = adapter
        return before

    def remove(self, name: str) -> Served:
        """Serve an adapter no longer. Raises `Refusal` if there is none, or no other one."""
        if name not in self._adapters:
            raise Refusal(404, "there is no adapter of this name", param="lora_name")
        if len(self._adapters) == 1:
            raise Refusal(422, "the last adapter cannot be dropped", param="lora_name")
        return self._adapters.pop(name)

    def find(self, name: str | None) -> Served:
        """The model of a request. Without a name: the only adapter. Raises `Refusal`."""
        if name is None:
            if len(self._adapters) > 1:
                raise Refusal(422, f"`model` is one of {self.names()}", param="model")
            return next(iter(self._adapters.values()))
        if name in self._adapters:
            return self._adapters[name]
        if name == self.base_name:
            return self.base()
        raise Refusal(404, f"this server has no such model; it has {self.names()}", param="model")

    def names(self) -> str:
        """The models' names in a sentence."""
        return ", ".join([*self._adapters, self.base_name])

    def base(self) -> Served:
        """The base without its adapter, under the first adapter's prompt."""
        first = next(iter(self._adapters.values()))
        return Served(self.base_name, None, first.prompter, Calibration())

    def question(self, labels: tuple[str, ...]) -> Served:
        """The base for a question of the request's own. Raises `Refusal` for unusable labels."""
        served = self._questions.pop(labels, None)
        if served is None:
            longest = max(adapter.prompter.format.max_length for adapter in self._adapters.values())
            try:
                format = PromptFormat(ZERO_SHOT, "", labels, max(512, longest))
                prompter = Prompter(self.tokenizer, format)
            except UsageError:
                raise Refusal(
                    422,
                    "these choices cannot be scored: one is blank, has blanks at its ends or is "
                    "too long, or this base's tokenizer cannot tell two of them apart",
                    param="choices",
                ) from None
            served = Served(self.base_name, None, prompter, Calibration())
        self._questions[labels] = served
        if len(self._questions) > NUM_QUESTIONS:
            self._questions.popitem(last=False)
        return served
