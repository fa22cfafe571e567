"""Texts that wait for a pass: which ones share the next pass, and how long a new one would wait.

There is no timer. When the model is free, the next pass takes what waits, oldest first, up to a
number of tokens; of several groups the largest. The class knows nothing of processes or of HTTP.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

NORMAL, LOW = 0, 1  # lanes: answers, and explanations, which wait until no answer does
# From here on a pass makes full use of a core, and more of them at a time are better than larger
# ones: 16 texts of 70 tokens take as long each as 56 do.
FULL_TOKENS = 1024
PATIENCE_SECONDS = 1.0  # after which a text is no longer passed over for a larger group
NEWEST = 0.3  # weight of a pass in the mean of its size


class Expired(Exception):
    """A text's deadline passed while it waited."""


@dataclass(eq=False)
class Entry:
    """A text that waits. Its future gets the scores, and is cancelled when its client is gone.

    group: texts of one group may share a pass. alone: whether it has a pass of its own.
    """

    ids: list[int]
    group: Hashable
    future: "asyncio.Future[Any]"
    deadline: float
    lane: int = NORMAL
    alone: bool = False
    since: float = field(default_factory=monotonic)

    @property
    def num_tokens(self) -> int:
        """What the text adds to a pass."""
        return len(self.ids)


class Pace:
    """How long a pass takes, by its size: means of the last passes of each power of two tokens.

    Small passes say little of large ones, and are by far the most frequent on a quiet day. So sizes
    are remembered apart.
    """

    def __init__(self) -> None:
        self._means: dict[int, tuple[float, float]] = {}  # tokens, seconds

    def add(self, num_tokens: int, seconds: float) -> None:
        """Learn from a pass."""
        size = num_tokens.bit_length()
        tokens, mean = self._means.get(size, (num_tokens, seconds))
        self._means[size] = (
            tokens + NEWEST * (num_tokens - tokens),
            mean + NEWEST * (seconds - mean),
        )

    def pass_seconds(self, num_tokens: int) -> float:
        """The time that one pass takes; 0 if nothing is known."""
        longest, before = 0.0, 0.0
        for _, (tokens, seconds) in sorted(self._means.items()):
            seconds = max(longest, seconds)  # more tokens never take less
            if num_tokens <= tokens:
                if not before:
                    return seconds
                share = (num_tokens - before) / (tokens - before)
                return longest + share * (seconds - longest)
            longest, before = seconds, tokens
        return longest * num_tokens / before if before else 0.0

    def seconds(self, num_tokens: int, max_tokens: int) -> float:
        """The time that passes of up to `max_tokens` tokens take for all of these."""
        full, rest = divmod(num_tokens, max_tokens)
        return full * self.pass_seconds(max_tokens) + (self.pass_seconds(rest) if rest else 0.0)


@dataclass(eq=False)
class Pass:
    """Texts that are scored together. started: when, by the queue's clock."""

    entries: list[Entry]
    started: float

    @property
    def num_tokens(self) -> int:
        """Tokens of its texts."""
        return sum(entry.num_tokens for entry in self.entries)


class PassQueue:
    """The waiting texts. max_tokens: of a pass; a longer text has a pass of its own.

    num_side_by_side: how many passes are scored at a time.
    """

    def __init__(self, max_tokens: int, clock: Callable[[], float] = monotonic) -> None:
        self.max_tokens = max_tokens
        self.num_side_by_side = 1
        self.pace = Pace()
        self._clock = clock
        self._lanes: tuple[deque[Entry], deque[Entry]] = (deque(), deque())
        self._tokens = [0, 0]
        self._under_way: set[Pass] = set()

    def __len__(self) -> int:
        return sum(map(len, self._lanes))

    @property
    def num_tokens(self) -> int:
        """Tokens of the texts that wait. Clients that left since the last pass count, too."""
        return sum(self._tokens)

    def add(self, entries: Iterable[Entry]) -> None:
        """Let texts wait, after those that wait already."""
        for entry in entries:
            self._lanes[entry.lane].append(entry)
            self._tokens[entry.lane] += entry.num_tokens

    def drop_dead(self) -> None:
        """Drop texts of clients that are gone; those whose deadline passed get `Expired`."""
        for lane in (NORMAL, LOW):
            self._drop_dead(lane)

    def predicted_wait(self, lane: int = NORMAL) -> float:
        """Seconds until a text that came now would be in a pass, if nobody left since."""
        now = self._clock()
        left = sum(
            max(0.0, self.pace.pass_seconds(one.num_tokens) - (now - one.started))
            for one in self._under_way
        )
        left += self.pace.seconds(sum(self._tokens[: lane + 1]), self.max_tokens)
        return left / self.num_side_by_side

    def next_entry(self) -> Entry | None:
        """The text that has waited longest; None if nobody waits."""
        self.drop_dead()
        return next((lane[0] for lane in self._lanes if lane), None)

    def take(self) -> Pass | None:
        """The next pass; None if nobody waits.

        It takes its share of what waits or is under way. Texts of clients that are gone are
        dropped. Those whose deadline passed get `Expired`.
        """
        self.drop_dead()
        for lane in (NORMAL, LOW):
            waiting = self._lanes[lane]
            if not waiting:
                continue
            work = self._tokens[lane] + sum(one.num_tokens for one in self._under_way)
            most = min(self.max_tokens, max(FULL_TOKENS, -(-work // self.num_side_by_side)))
            first = self._first(waiting)
            chosen, others, size = [first], deque[Entry](), first.num_tokens
            for entry in waiting:
                if entry is first:
                    continue
                fits = size + entry.num_tokens <= most
                shares = entry.group == first.group and not (first.alone or entry.alone)
                if fits and shares:
                    chosen.append(entry)
                    size += entry.num_tokens
                else:
                    others.append(entry)
            self._replace(lane, others)
            taken = Pass(chosen, self._clock())
            self._under_way.add(taken)
            return taken
        return None

    def _first(self, waiting: Sequence[Entry]) -> Entry:
        """The text that the next pass begins with: the oldest of the group with most tokens.

        Passes of the oldest text's group would be small when many groups wait. A text that has
        waited for long goes first all the same.
        """
        oldest = waiting[0]
        if oldest.alone or self._clock() - oldest.since > PATIENCE_SECONDS:
            return oldest
        sizes: Counter[Hashable] = Counter()
        for entry in waiting:
            sizes[entry.group] += 0 if entry.alone else entry.num_tokens
        [(group, _)] = sizes.most_common(1)  # of equals the first, which is the oldest
        return next(entry for entry in waiting if entry.group == group and not entry.alone)

    def finished(self, taken: Pass, seconds: float) -> None:
        """A pass ended after this many seconds. Later predictions follow it."""
        self._under_way.discard(taken)
        self.pace.add(taken.num_tokens, seconds)

    def fail_all(self, error: Exception) -> None:
        """End the wait of every text with an error."""
        self._under_way.clear()
        for lane in (NORMAL, LOW):
            for entry in self._lanes[lane]:
                if not entry.future.done():
                    entry.future.set_exception(error)
            self._replace(lane, deque())

    def _drop_dead(self, lane: int) -> None:
        now = self._clock()
        alive: deque[Entry] = deque()
        for entry in self._lanes[lane]:
            if entry.future.done():
                continue
            if entry.deadline < now:
                entry.future.set_exception(Expired())
            else:
                alive.append(entry)
        if len(alive) < len(self._lanes[lane]):
            self._replace(lane, alive)

    def _replace(self, lane: int, entries: deque[Entry]) -> None:
        lanes = list(self._lanes)
        lanes[lane] = entries
        self._lanes = lanes[0], lanes[1]
        self._tokens[lane] = sum(entry.num_tokens for entry in entries)
