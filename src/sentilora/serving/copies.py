"""Copies of the model's process. Each scores one pass at a time, with one thread.

A pass over short texts is hundreds of small products. Several threads on one pass wait for each
other at each of them; passes side by side do not. A copy is forked once the model is loaded, so
that its weights are the same memory. Whoever holds the other end of a copy's socket sends it
`score` messages; the socket's end ends the copy.
"""

import gc
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, BinaryIO

from sentilora.serving import protocol

MAX_COPIES = 8  # each takes the memory of a pass


class Copies:
    """Forked copies of this process.

    sockets: one for each copy. score: function that answers a message. pipe: of this process's own
    answers, which copies close: its end must be seen while they finish a pass.
    """

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        score: Callable[[Mapping[str, Any]], Mapping[str, Any]],
        pipe: BinaryIO,
    ) -> None:
        self._pipe = pipe
        self._sockets = list(sockets)
        self._score = score
        self._pids: list[int] = []

    @property
    def number(self) -> int:
        """How many there are."""
        return len(self._sockets)

    def renew(self) -> None:
        """Fork the copies again: after the start, and after a change of the adapters.

        None of them may be at work.
        """
        if not self._sockets:
            return
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for pid in self._pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        gc.collect()
        gc.freeze()  # a collection would write to, and so copy, all memory that is shared
        self._pids = [self._fork(own) for own in self._sockets]
        signal.signal(signal.SIGCHLD, self._end_with_copy)

    def _end_with_copy(self, number: int, frame: object) -> None:
        """End this process when a copy has died: then all are started again."""
        if any(os.waitpid(pid, os.WNOHANG)[0] for pid in self._pids):
            os._exit(1)

    def _fork(self, own: socket.socket) -> int:
        sys.stderr.flush()
        pid = os.fork()
        if pid:
            return pid
        status = 1
        try:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._pipe.close()
            for other in self._sockets:
                if other is not own:
                    other.close()
            _answer(own, self._score)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)  # not one of the clean-ups that the first process will do


def _answer(own: socket.socket, score: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> None:
    import torch

    torch.set_num_threads(1)
    with own.makefile("rb") as messages:
        while (message := protocol.read(messages)) is not None:
            answer = protocol.encode(score(message))
            try:
                own.sendall(answer)
            except BrokenPipeError:  # whoever asked is gone
                return
