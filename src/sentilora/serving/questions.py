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


@dataclass(frozen=True)
class Decision:
    """The answer to a question. probabilities: of the options, in the question's order."""

    probabilities: list[float]
    abstained: bool
    abstain_below: float
    num_tokens: int
    truncated: bool

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
        )

    async def affirm(self, state: object, instructions: str | None, alone: bool) -> Decision:
        """The decision between yes and no. Raises `Refusal` for an adapter."""
        if self.model.key is not None:
            raise Refusal(
                422,
                f"this adapter does not say which label means yes; ask for a choice between "
                f"{', '.join(self.model.labels)}",
                param="questions",
            )
        return await self._zero_shot(state, instructions, {YES: None, NO: None}, alone)

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
        item = {TEXT: _as_text(state), "question": question}
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


def _as_text(state: object) -> str:
    return state if isinstance(state, str) else orjson.dumps(state).decode()


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
