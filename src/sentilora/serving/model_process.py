"""The process that holds the model: it reads passes from stdin and writes scores to stdout.

The HTTP process starts it (`worker`) and stops it by closing the pipe. It gets token ids, so it
never sees a text, and can neither log nor leak one.

    python -m sentilora.serving.model_process [FD ...]

FD: an open socket for each copy of the process that may be made (`copies`).
"""

import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any, BinaryIO

from sentilora.errors import SentiloraError
from sentilora.models.device import spin_briefly
from sentilora.serving import protocol
from sentilora.serving.copies import Copies
from sentilora.serving.tokenizer import load_as_data

if TYPE_CHECKING:
    from sentilora.serving.loaded import LoadedModels


def main() -> None:
    """Serve passes until stdin ends."""
    for name in (signal.SIGINT, signal.SIGTERM):  # the HTTP process decides when this one ends
        signal.signal(name, signal.SIG_IGN)
    spin_briefly()
    stdin, stdout = sys.stdin.buffer, own_stdout()
    sockets = [socket.socket(fileno=int(fd)) for fd in sys.argv[1:]]
    start = protocol.read(stdin)
    try:
        if (
            start is not None and "tokenizer" in start
        ):  # before the model, as the HTTP process waits
            write(stdout, {"tokenizer": load_as_data(*start["tokenizer"])})
            start = protocol.read(stdin)
        if start is None:
            return
        models, ready = _start(start)
        copies = _copies(models, sockets, stdout)
    except (SentiloraError, OSError, RuntimeError) as error:
        write(stdout, {"failed": describe(error)})
        raise SystemExit(1) from None
    write(stdout, {"ready": {**ready, "num_copies": copies.number}})
    while (message := protocol.read(stdin)) is not None:
        content = answer(models, message)
        if message["op"] != "score":
            copies.renew()
        write(stdout, content)


def own_stdout() -> BinaryIO:
    """The pipe of answers. Whatever else prints to stdout goes to stderr from here on."""
    stream = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return stream


def write(stream: BinaryIO, message: Mapping[str, Any]) -> None:
    """Send a message."""
    stream.write(protocol.encode(message))
    stream.flush()


def _start(start: Mapping[str, Any]) -> tuple["LoadedModels", dict[str, Any]]:
    """The models that the first message names, and what the HTTP process is told of them."""
    from sentilora.serving.loaded import LoadedModels

    first, *others = start["adapters"]
    models = LoadedModels(first["key"], first["path"], **start["options"])
    for other in others:
        models.add(other["key"], other["path"])
    times = models.warm_up(first["key"])
    ready = {
        "computed_on": models.classifier.computed_on,
        "max_pass_tokens": models.max_pass_tokens,
        "passes": times,
    }
    return models, ready


def _copies(models: "LoadedModels", sockets: Sequence[socket.socket], stdout: BinaryIO) -> Copies:
    """Copies of this process for as many of the sockets as are of use; the others are closed."""
    number = min(len(sockets), models.num_copies)
    for unused in sockets[number:]:
        unused.close()
    copies = Copies(
        sockets[:number],
        lambda message: score(models, message["prompts"], message["group"]),
        stdout,
    )
    copies.renew()
    return copies


def answer(models: "LoadedModels", message: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to a message: scores of a pass, or whether an adapter was loaded or dropped."""
    operation = message["op"]
    if operation == "score":
        return score(models, message["prompts"], message["group"])
    try:
        if operation == "add":
            models.add(message["key"], message["path"])
        else:
            models.drop(message["key"])
    except Exception as error:  # of whatever a damaged adapter makes torch or PEFT raise
        _end_if_device_is_lost(error)
        return {"failed": describe(error)}
    return {"done": operation}


def score(
    models: "LoadedModels", prompts: Sequence[list[int]], group: Mapping[str, Any]
) -> dict[str, Any]:
    """The scores of a pass. After an exception its prompts are scored one by one.

    `scores` has None for a prompt that fails by itself; `errors` has the exceptions' classes.
    """
    started = perf_counter()
    errors: dict[str, str] = {}
    try:
        scores: list[Any] = list(models.score(prompts, group))
    except Exception as error:
        _end_if_device_is_lost(error)
        scores = []
        for number, prompt in enumerate(prompts):
            try:
                scores += models.score([prompt], group)
            except Exception as single:
                _end_if_device_is_lost(single)
                scores.append(None)
                errors[str(number)] = type(single).__name__
    return {"scores": scores, "errors": errors, "seconds": perf_counter() - started}


def _end_if_device_is_lost(error: Exception) -> None:
    """End the process after an error that every later pass would meet too; a new one is started."""
    if "CUDA error" in str(error):
        raise error


def describe(error: Exception) -> dict[str, Any]:
    """An error as data, for `raise_described`."""
    return {
        "problem": getattr(error, "problem", f"{type(error).__name__}: {error}"),
        "setting": getattr(error, "setting", None),
        "remedy": getattr(error, "remedy", ""),
        "kind": type(error).__name__,
    }


if __name__ == "__main__":
    main()
