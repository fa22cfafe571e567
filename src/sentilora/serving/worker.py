"""Starts the model's process, hands it passes, and starts another one when it dies.

worker = Worker(options)
await worker.spawn()
tokenizer = BareTokenizer(**await worker.tokenizer("./base", "main"))
await worker.start([("a1", "./my-adapter")])
scores = await entry.future         # of an entry that was given to `worker.queue`
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from typing import Any

from sentilora import errors
from sentilora.errors import SentiloraError
from sentilora.progress import say
from sentilora.serving.channel import Channel, Channels, Unavailable
from sentilora.serving.queue import FULL_TOKENS, Entry, Pass, PassQueue

MAX_BACKOFF_SECONDS = 10.0
_FIRST_PASS_TOKENS = 4096  # until the model's process says how many suit its device


class Worker:
    """The model's process as the HTTP process sees it.

    options: keywords of `Classifier.load`. max_pass_tokens: of a pass; None lets the process
    choose. on_pass: function called after each pass with its numbers of texts and of tokens, and
    its seconds.
    """

    def __init__(
        self,
        options: Mapping[str, Any],
        max_pass_tokens: int | None = None,
        on_pass: Callable[[int, int, float], object] = lambda *_: None,
    ) -> None:
        self.queue = PassQueue(max_pass_tokens or _FIRST_PASS_TOKENS)
        self.computed_on = ""
        self.state = "starting"  # then "ready"; "restarting" after a death; "stopped"
        self.num_restarts = 0
        self.spawned_at = 0.0  # when the process was started, by `monotonic`
        self.last_pass: float | None = None  # when one ended
        self._options = dict(options)
        self._max_pass_tokens = max_pass_tokens
        self._on_pass = on_pass
        self._adapters: dict[str, str] = {}
        self._channels: Channels | None = None
        self._passes: set[asyncio.Task[None]] = set()
        self._ordering = asyncio.Lock()  # while it is held, no pass starts
        self._task: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """The model's process, None while there is none."""
        return None if self._channels is None else self._channels.process.pid

    async def spawn(self) -> Channels:
        """Start the process, which imports torch first. `start` does this if it was not done."""
        self.spawned_at = monotonic()
        self._channels = await Channels.spawn()
        return self._channels

    async def tokenizer(self, name: str, revision: str) -> dict[str, Any]:
        """The base's tokenizer, for `BareTokenizer`: the process's first answer after `spawn`.

        Raises what `load_as_data` raises, and `SentiloraError` when the process dies.
        """
        try:
            answer = await self._whole().exchange({"tokenizer": [name, revision]})
        except Unavailable:
            raise SentiloraError("the model's process died while it loaded the tokenizer") from None
        if "failed" in answer:
            raise described(answer["failed"])
        tokenizer: dict[str, Any] = answer["tokenizer"]
        return tokenizer

    async def start(self, adapters: Sequence[tuple[str, str]]) -> None:
        """Load adapters, given as (key, folder), and begin to work.

        Raises `SentiloraError` when one of them cannot be loaded.
        """
        self._adapters = dict(adapters)
        await self._launch()
        self._task = asyncio.create_task(self._run())

    async def stop(self, patience: float = 5.0) -> None:
        """End the model's process. What waits gets `Unavailable`.

        patience: seconds for the pass under way.
        """
        self.state = "stopped"
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self.queue.fail_all(Unavailable())
        await self._end_process(patience)

    def submit(self, entries: Sequence[Entry]) -> None:
        """Let texts wait for a pass. Raises `Unavailable` unless the worker is ready."""
        if self.state != "ready":
            raise Unavailable
        self.queue.add(entries)
        self._start_passes()

    async def add(self, key: str, path: str) -> None:
        """Load one more adapter. Raises `SentiloraError` if that fails, and `Unavailable`."""
        await self._order({"op": "add", "key": key, "path": path})
        self._adapters[key] = path

    async def drop(self, key: str) -> None:
        """Free an adapter that no waiting text needs any more."""
        self._adapters.pop(key)
        await self._order({"op": "drop", "key": key})

    async def _order(self, message: Mapping[str, Any]) -> None:
        """Let the process do something while no pass is under way. It must not be cancelled."""
        async with self._ordering:
            if self._passes:
                await asyncio.wait(self._passes)
            if self.state != "ready":
                raise Unavailable
            answer = await self._whole().exchange(message)
        self._start_passes()
        if "failed" in answer:
            raise described(answer["failed"])

    # --- passes ----------------------------------------------------------------------------------

    def _start_passes(self) -> None:
        """Start as many passes as there are texts for, and processes."""
        channels = self._channels
        while channels is not None and self.state == "ready" and not self._ordering.locked():
            channel = self._channel_for_next(channels)
            taken = None if channel is None else self.queue.take()
            if channel is None or taken is None:
                return
            channels.busy.add(channel)
            task = asyncio.create_task(self._score(channels, channel, taken))
            self._passes.add(task)
            task.add_done_callback(self._passes.discard)

    def _channel_for_next(self, channels: Channels) -> Channel | None:
        """Who scores the next pass; None if nobody can now, or nobody waits.

        While nothing else is to do, a short pass gets every core. So does a text that wants a pass
        of its own, whose scores are then the bits of a `Classifier` in this process.
        """
        whole = None if channels.whole in channels.busy else channels.whole
        copy = next((copy for copy in channels.copies if copy not in channels.busy), None)
        if whole is None and copy is None:  # each text that comes would look at all that wait
            return None
        first = self.queue.next_entry()
        if first is None:
            return None
        is_quiet = not channels.busy and self.queue.num_tokens <= FULL_TOKENS
        return whole if not channels.copies or first.alone or is_quiet else copy

    async def _score(self, channels: Channels, channel: Channel, taken: Pass) -> None:
        entries = taken.entries
        group = dict(entries[0].group)  # type: ignore[call-overload]  # (name, value) pairs
        message = {"op": "score", "prompts": [entry.ids for entry in entries], "group": group}
        try:
            answer = await channel.exchange(message)
            self._finish(taken, answer)
        except BaseException as error:
            for entry in entries:
                if not entry.future.done():
                    entry.future.set_exception(Unavailable())
            if not isinstance(error, Unavailable | asyncio.CancelledError):
                say(f"the model's process sent no answer to a pass ({type(error).__name__})")
            channels.kill()  # what it sends next would be taken for another answer
            if self.state == "ready":
                self.state = "restarting"  # `_run` sees to it once the process has ended
        else:
            channels.busy.discard(channel)
            self._start_passes()

    def _finish(self, taken: Pass, answer: Mapping[str, Any]) -> None:
        """Hand out the scores of a pass."""
        num_tokens = taken.num_tokens
        self.last_pass = monotonic()
        self.queue.finished(taken, answer["seconds"])
        self._on_pass(len(taken.entries), num_tokens, answer["seconds"])
        for number, (entry, scores) in enumerate(zip(taken.entries, answer["scores"], strict=True)):
            if entry.future.done():  # its client is gone
                continue
            if scores is None:
                entry.future.set_exception(ScoringFailed(answer["errors"][str(number)]))
            else:
                entry.future.set_result(scores)

    # --- the process -----------------------------------------------------------------------------

    def _whole(self) -> Channel:
        if self._channels is None:
            raise Unavailable
        return self._channels.whole

    async def _launch(self) -> None:
        """Start the process, unless it is running, and wait until its adapters are loaded."""
        channels = self._channels or await self.spawn()
        adapters = [{"key": key, "path": path} for key, path in self._adapters.items()]
        try:
            answer = await channels.whole.exchange({"adapters": adapters, "options": self._options})
        except Unavailable:
            raise SentiloraError("the model's process died while it loaded the model") from None
        if "failed" in answer:
            raise described(answer["failed"])
        ready = answer["ready"]
        channels.keep(ready["num_copies"])
        self.computed_on = ready["computed_on"]
        self.queue.max_tokens = self._max_pass_tokens or ready["max_pass_tokens"]
        self.queue.num_side_by_side = max(1, ready["num_copies"])
        for num_tokens, seconds in ready["passes"]:
            self.queue.pace.add(num_tokens, seconds)
        self.last_pass = monotonic()
        self.state = "ready"

    async def _run(self) -> None:
        """Start the process again whenever it dies."""
        while self._channels is not None:
            await self._channels.process.wait()
            await self._restart()

    async def _restart(self) -> None:
        """Start the process again, until it comes up. Whatever waits gets `Unavailable`."""
        self.state = "restarting"
        self.queue.fail_all(Unavailable())
        backoff = 0.5
        while self.state != "ready":
            await self._end_process()
            self.num_restarts += 1
            say("the model's process died; starting it again")
            try:
                await self._launch()
            except (SentiloraError, OSError) as error:
                say(f"the model's process did not start: {error}")
                await asyncio.sleep(backoff)
                backoff = min(2 * backoff, MAX_BACKOFF_SECONDS)

    async def _end_process(self, patience: float = 0.0) -> None:
        channels, self._channels = self._channels, None
        if channels is not None:
            await channels.end(patience)


class ScoringFailed(Exception):
    """A text could not be scored, not even by itself. Its argument is the exception's class."""


def described(failure: Mapping[str, Any]) -> SentiloraError:
    """The error that `model_process.describe` turned into data."""
    kind = getattr(errors, failure["kind"], SentiloraError)
    error: SentiloraError = kind(
        failure["problem"], setting=failure["setting"], remedy=failure["remedy"]
    )
    return error
