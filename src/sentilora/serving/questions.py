"""Questions of the decision routes: which model answers one, and what its figures mean.

An adapter answers the question that it was trained on. Its base answers any, zero-shot, with the
same scorer.
"""

import asyncio
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from sentilora.serving.answering import Answering
from sentilora.serving.errors import Refusal
from sentilora.serving.served import Registry, Served
from sentilora.template import TEXT

YES, NO = "yes", "no"  # the labels of a yes-or-no question to the base
YES_AND_NO = ((YES, NO), ("true", "false"))  # an adapter's labels that say which one means yes


@dataclass(frozen=True)
class Decision:
    """The answer to a question. probabilities: of the options, in the question's order.

    skips_descriptions: whether options were described to an adapter, whose prompt is that of
    training and shows no descriptions.
    """

    probabilities: list[float]
    abstained: bool
    abstain_below: float
    num_tokens: int
    truncated: bool
    skips_descriptions: bool = False

    @property
    def more(self) -> dict[str, Any]:
        """What each format's answer has besides its own fields."""
        more: dict[str, Any] = {"truncated": self.truncated}
        if self.abstain_below:
            more |= {"abstained": self.abstained, "abstain_below": self.abstain_below}
        if self.skips_descriptions:
            more["descriptions_used"] = False
        return more

    @property
    def best(self) -> int:
        """Number of the most probable option."""
        return int(np.argmax(self.probabilities))

    @property
    def confidence(self) -> float:
        """0 if all options are equally probable, 1 if one is certain."""
        n = len(self.probabilities)
        return float(np.clip((n * max(self.probabilities) - 1) / (n - 1), 0, 1))

    @property
    def score(self) -> float:
        """The mean number of the option: Σ i·pᵢ."""
        return float(np.dot(np.arange(len(self.probabilities)), self.probabilities))

    @property
    def score_confidence(self) -> float:
        """1 − the mean distance from the best level, over that of equally probable levels."""
        distances = np.abs(np.arange(len(self.probabilities)) - self.best)
        return float(np.clip(1 - np.dot(distances, self.probabilities) / distances.mean(), 0, 1))


class Questioner:
    """Answers questions about one state with one model."""

    def __init__(self, registry: Registry, answering: Answering, name: str | None) -> None:
        self.model = registry.find(name)
        self._registry = registry
        self._answering = answering

    async def choose(
        self,
        state: object,
        instructions: str | None,
        options: Mapping[str, str | None],
        *,
        alone: bool = False,
    ) -> Decision:
        """The decision between options, given as {option: description}. Raises `Refusal`."""
        if self.model.key is None:
            return await self._zero_shot(state, instructions, options, alone)
        model = self.model
        if not set(options) <= set(model.labels):
            raise Refusal(
                422, f"this adapter's labels are {', '.join(model.labels)}", param="choices"
            )
        _require_trained_question(model, instructions)
        is_part = len(options) < len(model.labels)
        item = _item(state, model)
        [answer] = await self._answering.answers(model, [item], alone=alone, whole=is_part)
        by_label = dict(zip(model.labels, answer.probabilities, strict=True))
        chosen = np.array([by_label[option] for option in options])
        total = chosen.sum()
        if is_part:
            chosen = chosen / total if total > 0 else np.full(len(chosen), 1 / len(chosen))
        threshold = model.calibration.abstain_below
        return Decision(
            probabilities=chosen.tolist(),
            abstained=bool(chosen.max() < threshold),
            abstain_below=threshold,
            num_tokens=answer.num_tokens,
            truncated=answer.truncated,
            skips_descriptions=any(options.values()),
        )

    async def affirm(
        self,
        state: object,
        instructions: str | None,
        yes: str | None = None,
        no: str | None = None,
        *,
        alone: bool = False,
    ) -> Decision:
        """The decision between yes, its first option, and no.

        yes, no: what counts as each. An adapter answers if they are its two labels, or if its
        labels are yes and no, or true and false. Raises `Refusal` otherwise.
        """
        if self.model.key is None:
            return await self._zero_shot(state, instructions, {YES: yes, NO: no}, alone)
        labels = self.model.labels
        options: dict[str, str | None] = {}
        if len(labels) == 2 and {yes, no} == set(labels):
            options = {str(yes): None, str(no): None}
        for pair in YES_AND_NO:
            by_name = {label.casefold(): label for label in labels}
            if not options and len(labels) == 2 and set(by_name) == set(pair):
                options = {by_name[pair[0]]: yes, by_name[pair[1]]: no}
        if not options:
            raise Refusal(
                422,
                f"this adapter does not say which label means yes; ask for a choice between "
                f"{', '.join(labels)}",
                param="questions",
            )
        return await self.choose(state, instructions, options, alone=alone)

    async def _zero_shot(
        self,
        state: object,
        instructions: str | None,
        options: Mapping[str, str | None],
        alone: bool,
    ) -> Decision:
        model = self._registry.question(tuple(options))
        *others, last = options
        described = [f"- {option}: {text}" for option, text in options.items() if text]
        lines = [instructions or "", *described, f"Answer with {', '.join(others)} or {last}."]
        question = "\n".join(filter(None, lines))
        item = {TEXT: as_text(state), "question": question}
        [answer] = await self._answering.answers(model, [item], alone=alone)
        return Decision(answer.probabilities, False, 0.0, answer.num_tokens, answer.truncated)


def _require_trained_question(model: Served, instructions: str | None) -> None:
    asked = " ".join((instructions or "").split()).casefold()
    trained = " ".join(model.instruction.split()).casefold()
    if asked not in ("", trained):
        raise Refusal(
            422,
            "this adapter answers the question it was trained on: leave `instructions` empty, or "
            f"send {model.instruction!r}; its labels are {', '.join(model.labels)}",
            param="instructions",
        )


def _item(state: object, model: Served) -> object:
    """What an adapter reads of a state: a text, or an object of its columns."""
    if isinstance(state, Mapping) and not model.columns and set(state) == {TEXT}:
        return state[TEXT]
    return state


def as_text(content: object) -> str:
    """A text as it is, anything else as JSON."""
    return content if isinstance(content, str) else orjson.dumps(content).decode()


def text_or_none(content: object) -> str | None:
    """`as_text`, unless there is nothing."""
    return None if content is None else as_text(content)


def distinct(values: Sequence[Any], param: str) -> None:
    """Raise `Refusal` if a value is there twice. A string and a boolean are different values."""
    if len({(type(value), value) for value in values}) < len(values):
        raise Refusal(422, "the choices must differ", param=param)


async def together(works: Iterable[Coroutine[Any, Any, Decision]]) -> list[Decision]:
    """The decisions, made at the same time. When one is refused, the others are dropped."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
