"""Peak memory of jobs that differ in their number of rows, with a scorer that costs nothing.

python memory.py ADAPTER INPUT …        # prints the peak in KiB for each input
"""

import os
import resource
import sys
import tempfile
from types import SimpleNamespace

from sentilora.bulk import scoring, units
from sentilora.scoring.answers import Prediction
from sentilora.scoring.classifier import Classifier
from sentilora.stages.predict_file import predict_file

adapter, *sources = sys.argv[1:]
units.ROWS_PER_UNIT["cpu"] = 512
LABELS = {"positive": 0.5, "negative": 0.5}
stub = SimpleNamespace(
    scorer=SimpleNamespace(restore_passes=lambda: False),
    classify=lambda texts, progress: [Prediction(t, "positive", LABELS, False) for t in texts],
)
Classifier.load = lambda *_, **__: stub
scoring.computation_of = lambda classifier, sizes: {"passes": None}
for source in sources:
    for name in ("out/", "out.jsonl"):
        sys.stdout.flush()
        process = os.fork()
        if process == 0:
            try:
                with tempfile.TemporaryDirectory() as folder:
                    predict_file(source, f"{folder}/{name}", adapter=adapter)
                print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, flush=True)
                os._exit(0)
            finally:
                os._exit(1)
        _, status = os.waitpid(process, 0)
        assert status == 0, source
