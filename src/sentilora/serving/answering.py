"""The one internal call that every route is a view of: texts of a request → answers.

Texts are checked and tokenized before they wait. A request is refused as a whole or answered as a
whole.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sentilora.data.text import as_field, fault_of
from sentilora.errors import DataError, SentiloraError
from sentilora.prompt import Prompt
from sentilora.scoring.answers import at_temperature
from sentilora.serving.errors import Refusal
from sentilora.serving.queue import NORMAL, Entry, Expired
from sentilora.serving.served import Served
from sentilora.serving.worker import ScoringFailed, Unavailable, Worker
from sentilora.template import TEXT

# A refused client that comes back at once takes the time that the model needs: at 256 of them a
# prototype's answers fell from 160 a second to 0. Held back, they fell to 140.
HOLD_SECONDS, REFUSALS_PER_SECOND = 0.2, 100  # a refusal at once is asked again at once
LONG_TEXT = 20_000  # characters, from which a text is tokenized beside the event loop
RETRY_SECONDS = 5.0


@dataclass(frozen=True)
class Limits:
    """What a server takes on. max_wait: predicted seconds from which it refuses with 429.

    max_texts: of a request. deadline: seconds after which a waiting text gets 504. refuses_long:
    whether a text that would be cut gets 422.
    """

    max_wait: float = 5.0
    max_texts: int = 256
    deadline: float = 60.0
    refuses_long: bool = False


@dataclass(frozen=True)
class Answer:
    """The answer to a text. label: the most probable one, also if the model abstains.

    probabilities: in the order of the model's labels. label_mass: the probability that the whole
    vocabulary gave to the labels, before temperature and normalization. num_tokens: of the prompt.
    """

    label: str
    probabilities: list[float]
    abstained: bool
    truncated: bool
    num_tokens: int
    label_mass: float


class Answering:
    """Answers texts with a worker, within limits."""

    def __init__(
        self,
        worker: Worker,
        limits: Limits,
        on_answer: Callable[[str, Answer], object] = lambda *_: None,
    ) -> None:
        self.worker = worker
        self.limits = limits
        self.is_leaving = False  # not ready for more, from a signal on
        self.is_draining = False  # what comes now is refused
        self.num_held = 0
        self.num_active = 0
        self._on_answer = on_answer

    async def admit(self, lane: int = NORMAL) -> None:
        """Raise `Refusal` if the server cannot take a request now: slowly, or the CPU is theirs."""
        was_ready = self.worker.state == "ready"
        if self._is_free(lane):
            return
        self.num_held += 1
        try:
            await asyncio.sleep(HOLD_SECONDS)  # a burst ends, clients leave, the model is back
            if self._is_free(lane):
                return
            await asyncio.sleep(max(0.0, self.num_held / REFUSALS_PER_SECOND - HOLD_SECONDS))
        finally:
            self.num_held -= 1
        self._require_ready()
        wait = self._wait(lane)
        if wait <= self.limits.max_wait and not was_ready:
            return
        raise Refusal(
            429,
            f"too busy: a text would wait {wait:.1f} s",
            retry_after=max(1.0, wait - self.limits.max_wait),
        )

    def _is_free(self, lane: int) -> bool:
        """Whether one more text can wait. Raises `Refusal` when the server is shutting down."""
        if self.is_draining:
            self._require_ready()
        return self.worker.state == "ready" and self._wait(lane) <= self.limits.max_wait

    def _require_ready(self) -> None:
        if self.is_draining:
            raise Refusal(503, "the server is shutting down", retry_after=RETRY_SECONDS)
        if self.worker.state != "ready":
            raise Refusal(503, f"the model is {self.worker.state}", retry_after=RETRY_SECONDS)

    def _wait(self, lane: int) -> float:
        """Seconds that a text would wait; those of clients that are gone do not count."""
        queue = self.worker.queue
        wait = queue.predicted_wait(lane)
        if wait > self.limits.max_wait:
            queue.drop_dead()  # 1,000 clients that left would refuse the next one
            wait = queue.predicted_wait(lane)
        return wait

    async def answers(
        self,
        model: Served,
        items: Sequence[object],
        *,
        alone: bool = False,
        whole: bool = False,
        refuses_long: bool | None = None,
    ) -> list[Answer]:
        """The answers to texts or records, in their order.

        alone: whether each text has a pass of its own. whole: whether every label is scored, even
        the least probable. refuses_long: instead of the server's own. Raises `Refusal`.
        """
        if not items:
            raise Refusal(400, "there is no text", param="input")
        if len(items) > self.limits.max_texts:
            raise Refusal(
                413, f"more than {self.limits.max_texts:,} texts (`max_texts`)", param="input"
            )
        model.num_active += 1
        self.num_active += 1
        try:
            prompts = await self.encode(model, items, refuses_long)
            ids = [prompt.input_ids for prompt in prompts]
            scores = await self.scores(model, ids, alone=alone, whole=whole)
        finally:
            model.num_active -= 1
            self.num_active -= 1
        answers = [_answer(model, *pair) for pair in zip(prompts, scores, strict=True)]
        if model.key is not None:
            for answer in answers:
                self._on_answer(model.name, answer)
        return answers

    async def encode(
        self, model: Served, items: Sequence[object], refuses_long: bool | None = None
    ) -> list[Prompt]:
        """The prompts of texts or records. Raises `Refusal` for the first unusable one."""
        refuses = self.limits.refuses_long if refuses_long is None else refuses_long
        prompts = []
        for number, item in enumerate(items):
            _require_usable(model, item, number)
            encode = model.prompter.encode
            try:
                if _length(item) > LONG_TEXT:
                    prompt = await asyncio.to_thread(encode, item)  # type: ignore[arg-type]
                else:
                    prompt = encode(item)  # type: ignore[arg-type]
            except SentiloraError:
                raise Refusal(
                    422, f"text {number} does not fit into the prompt", param="input"
                ) from None
            if refuses and prompt.truncated:
                limit = model.prompter.max_prompt_tokens
                raise Refusal(
                    422,
                    f"text {number} is longer than the {limit:,} tokens that fit",
                    param="input",
                )
            prompts.append(prompt)
            if number % 8 == 7:
                await asyncio.sleep(0)  # let others in between
        return prompts

    async def scores(
        self,
        model: Served,
        ids: Sequence[list[int]],
        *,
        alone: bool = False,
        whole: bool = False,
        lane: int = NORMAL,
    ) -> list[list[float]]:
        """Log-probabilities of the model's labels after each prompt. Raises `Refusal`.

        When this is cancelled, what waits is dropped.
        """
        loop = asyncio.get_running_loop()
        deadline = time.monotonic() + self.limits.deadline
        group = model.group(whole)
        entries = [
            Entry(prompt, group, loop.create_future(), deadline, lane, alone) for prompt in ids
        ]
        try:
            self.worker.submit(entries)
            return [await entry.future for entry in entries]
        except Expired:
            raise Refusal(504, "the deadline passed before a pass was free") from None
        except Unavailable:
            doing = "server is shutting down" if self.is_draining else "model is restarting"
            raise Refusal(503, f"the {doing}", retry_after=RETRY_SECONDS) from None
        except ScoringFailed as error:
            raise Refusal(500, f"a text could not be scored ({error})") from None
        finally:
            for entry in entries:
                entry.future.cancel()
                if entry.future.done() and not entry.future.cancelled():
                    entry.future.exception()  # so that asyncio does not report it as unread


def _answer(model: Served, prompt: Prompt, scores: Sequence[float | None]) -> Answer:
    log_probs = np.array([-np.inf if score is None else score for score in scores])
    row = at_temperature(log_probs[None], model.calibration.temperature)[0]
    best = int(row.argmax())
    return Answer(
        label=model.labels[best],
        probabilities=row.tolist(),
        abstained=bool(row[best] < model.calibration.abstain_below),
        truncated=prompt.truncated,
        num_tokens=len(prompt.input_ids),
        label_mass=min(1.0, float(np.exp(log_probs).sum())),
    )


def _length(item: Any) -> int:
    return len(item) if isinstance(item, str) else sum(map(len, map(str, item.values())))


def _require_usable(model: Served, item: object, number: int) -> None:
    """Raise `Refusal` unless an item is a text, or a record where the prompt shows columns."""
    param = "input"
    if not model.columns:
        if not isinstance(item, str):
            raise Refusal(422, f"text {number} is no string", param=param)
        fault = fault_of(item)
        if fault:
            raise Refusal(422, f"text {number} is {_kind(fault)}", param=param)
        return
    names = ", ".join((TEXT, *model.columns))
    if not isinstance(item, Mapping) or any(name not in item for name in (TEXT, *model.columns)):
        raise Refusal(
            422,
            f"this model's prompt shows several columns: send objects with {names}",
            param=param,
        )
    if fault := fault_of(item[TEXT]):
        raise Refusal(422, f"`text` of object {number} is {_kind(fault)}", param=param)
    for name in model.columns:
        try:
            as_field(item[name], name)
        except DataError:
            message = f"`{name}` of object {number} is neither a text nor a number"
            raise Refusal(422, message, param=param) from None


def _kind(fault: str) -> str:
    """A fault without the value."""
    return "empty" if fault == "empty" else "no valid text"
