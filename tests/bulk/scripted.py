"""`predict` in a process of its own, with small units and a pause after each, so that it is killed.

python scripted.py ROWS_PER_UNIT SECONDS arguments of sentilora …
"""

import sys
import time

from sentilora.bulk import units
from sentilora.bulk.results import Results
from sentilora.cli.app import main

rows_per_unit, seconds = int(sys.argv[1]), float(sys.argv[2])
units.ROWS_PER_UNIT.update(cpu=rows_per_unit)
write = Results.write


def write_slowly(self, unit, *args):
    write(self, unit, *args)
    print(f"done {unit.name}", file=sys.stderr, flush=True)
    time.sleep(seconds)


Results.write = write_slowly
sys.argv = ["sentilora", *sys.argv[3:]]
main()
