"""Starts the model's process, hands it passes, and starts another one when it dies.

worker = Worker(options)
await worker.spawn()
tokenizer = BareTokenizer(**await worker.tokenizer("./base", "main"))
await worker.start([("a1", "./my-adapter")])
scores = await entry.future         # of an entry that was given to `worker.queue`
"""

import asyncio
import contextlib
import sys
from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from typing import Any

from sentilora import errors
from sentilora.errors import SentiloraError
from sentilora.progress import say
from sentilora.serving import protocol
from sentilora.serving.queue import Entry, PassQueue

MAX_BACKOFF_SECONDS = 10.0
_FIRST_PASS_TOKENS = 4096  # until the model's process says how many suit its device


class Unavailable(Exception):
    """The model's process is starting, died, or is being stopped."""


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
        self._process: asyncio.subprocess.Process | None = None
        self._work = asyncio.Event()
        self._idle = asyncio.Lock()  # one message and its answer at a time
        self._task: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """The model's process, None while there is none."""
        return None if self._process is None else self._process.pid

    async def spawn(self) -> None:
        """Start the process, which imports torch first. `start` does this if it was not done."""
        self.spawned_at = monotonic()
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "sentilora.serving.model_process"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=2**20,
        )

    async def tokenizer(self, name: str, revision: str) -> dict[str, Any]:
        """The base's tokenizer, for `BareTokenizer`: the process's first answer after `spawn`.

        Raises what `load_as_data` raises, and `SentiloraError` when the process dies.
        """
        try:
            answer = await self._exchange({"tokenizer": [name, revision]})
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
        self._work.set()

    async def add(self, key: str, path: str) -> None:
        """Load one more adapter. Raises `SentiloraError` if that fails, and `Unavailable`."""
        await self._order({"op": "add", "key": key, "path": path})
        self._adapters[key] = path

    async def drop(self, key: str) -> None:
        """Free an adapter that no waiting text needs any more."""
        self._adapters.pop(key)
        await self._order({"op": "drop", "key": key})

    async def _order(self, message: Mapping[str, Any]) -> None:
        """Let the process do something between passes. It must not be cancelled.

        The answer would stay in the pipe, as if it were that of the next message.
        """
        if self.state != "ready":
            raise Unavailable
        async with self._idle:
            answer = await self._exchange(message)
        if "failed" in answer:
            raise described(answer["failed"])

    # --- the process -----------------------------------------------------------------------------

    async def _launch(self) -> None:
        """Start the process, unless it is running, and wait until its adapters are loaded."""
        if self._process is None:
            await self.spawn()
        adapters = [{"key": key, "path": path} for key, path in self._adapters.items()]
        try:
            answer = await self._exchange({"adapters": adapters, "options": self._options})
        except Unavailable:
            raise SentiloraError("the model's process died while it loaded the model") from None
        if "failed" in answer:
            raise described(answer["failed"])
        ready = answer["ready"]
        self.computed_on = ready["computed_on"]
        self.queue.max_tokens = self._max_pass_tokens or ready["max_pass_tokens"]
        for num_tokens, seconds in ready["passes"]:
            self.queue.pace.add(num_tokens, seconds)
        self.last_pass = monotonic()
        self.state = "ready"

    async def _exchange(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a message. Raises `Unavailable` when the process dies before it."""
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise Unavailable
        try:
            process.stdin.write(protocol.encode(message))
            await process.stdin.drain()
            answer = await protocol.read_async(process.stdout)
        except (OSError, protocol.BrokenPipe):
            raise Unavailable from None
        if answer is None:
            raise Unavailable
        return answer

    async def _run(self) -> None:
        """Hand over one pass after another; start the process again when it dies."""
        while True:
            try:
                await self._work_until_death()
            except Unavailable:
                await self._restart()
            except Exception as error:  # an answer that fits no question
                say(f"the model's process answered with what is no answer ({type(error).__name__})")
                await self._restart()

    async def _work_until_death(self) -> None:
        process = self._process
        if process is None:
            raise Unavailable
        death = asyncio.ensure_future(process.wait())
        try:
            while not death.done():
                work = asyncio.ensure_future(self._work.wait())
                await asyncio.wait((work, death), return_when=asyncio.FIRST_COMPLETED)
                work.cancel()
                self._work.clear()
                async with self._idle:
                    while entries := self.queue.take():
                        await self._score(entries)
        finally:
            death.cancel()
        raise Unavailable

    async def _score(self, entries: Sequence[Entry]) -> None:
        group = dict(entries[0].group)  # type: ignore[call-overload]  # (name, value) pairs
        message = {"op": "score", "prompts": [entry.ids for entry in entries], "group": group}
        try:
            answer = await self._exchange(message)
        except (Unavailable, asyncio.CancelledError):
            for entry in entries:
                if not entry.future.done():
                    entry.future.set_exception(Unavailable())
            raise
        num_tokens = sum(entry.num_tokens for entry in entries)
        self.last_pass = monotonic()
        self.queue.finished(num_tokens, answer["seconds"])
        self._on_pass(len(entries), num_tokens, answer["seconds"])
        for number, (entry, scores) in enumerate(zip(entries, answer["scores"], strict=True)):
            if entry.future.done():  # its client is gone
                continue
            if scores is None:
                entry.future.set_exception(ScoringFailed(answer["errors"][str(number)]))
            else:
                entry.future.set_result(scores)

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
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()  # it ends after its pass
        try:
            await asyncio.wait_for(process.wait(), patience)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


class ScoringFailed(Exception):
    """A text could not be scored, not even by itself. Its argument is the exception's class."""


def described(failure: Mapping[str, Any]) -> SentiloraError:
    """The error that `model_process.describe` turned into data."""
    kind = getattr(errors, failure["kind"], SentiloraError)
    error: SentiloraError = kind(
        failure["problem"], setting=failure["setting"], remedy=failure["remedy"]
    )
    return error
