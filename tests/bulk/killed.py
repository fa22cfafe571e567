"""A job of small units that is killed again and again, each time at another moment.

python killed.py SEED NUM_KILLS LOG arguments of sentilora …

Everything is imported once; each attempt is a process of its own. A line of LOG names each unit
that an attempt begins. After the last kill an attempt goes to the end.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

import peft  # noqa: F401  what an attempt would import
import transformers  # noqa: F401

from sentilora.bulk import scoring, units
from sentilora.cli.app import main

seed, num_kills, log = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
sys.argv = ["sentilora", *sys.argv[4:]]
units.ROWS_PER_UNIT["cpu"] = 8
moments = random.Random(seed)
rows_of = scoring.rows_of


def noted_rows(stream, pending):
    for unit, table in rows_of(stream, pending):
        with log.open("a") as file:
            file.write(f"{unit.name}\n")
        yield unit, table


scoring.rows_of = noted_rows


def attempt():
    process = os.fork()
    if process == 0:
        try:
            main()
        finally:
            os._exit(1)
    return process


def size():
    return log.stat().st_size if log.exists() else 0


for _ in range(num_kills):
    before, process = size(), attempt()
    while size() == before:
        time.sleep(0.002)
    time.sleep(moments.uniform(0, 0.08))
    os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    assert os.WIFSIGNALED(status), "it ended before it was killed"
main()
