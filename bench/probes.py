"""How far the probabilities of an adapter's probe texts move with the way they are computed.

    python bench/probes.py [ADAPTER] [--base BASE] [--device cuda] [--ways float32,bfloat16,fp8]

Without ADAPTER, the one that ships. Each way is a classifier of its own, and its probabilities are
compared with those of `probes.json` (column "probes") and with those of every way before it. The
tolerances in `sentilora/scoring/probes.py` are set from such tables.
"""

import argparse
import gc
import time
from typing import Any

import numpy as np
import torch

from sentilora import Classifier, shipped_adapter
from sentilora.folders.adapter_folder import AdapterFolder
from sentilora.folders.probes_file import ProbesFile
from sentilora.scoring.answers import at_temperature
from sentilora.scoring.probes import computation_of, probe_probabilities

WAYS: dict[str, dict[str, Any]] = {
    "float32": {"compute_dtype": "float32"},
    "float32 plain": {"compute_dtype": "float32", "engine": "reference"},
    "float32 eager": {
        "compute_dtype": "float32",
        "engine": "reference",
        "attn_implementation": "eager",
    },
    "float32 one": {"compute_dtype": "float32", "engine": "reference", "batch_size": 1},
    "bfloat16": {"compute_dtype": "bfloat16"},
    "bfloat16 plain": {"compute_dtype": "bfloat16", "engine": "reference"},
    "float16": {"compute_dtype": "float16"},
    "float16 plain": {"compute_dtype": "float16", "engine": "reference"},
    "fp8": {"base_matmul": "fp8"},
    "unquantized": {"quantization": "none", "compute_dtype": "float32"},
}
GPU_ONLY = {"float16", "float16 plain", "fp8"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("adapter", nargs="?", default=shipped_adapter())
    parser.add_argument("--base")
    parser.add_argument("--device", choices=["cuda", "cpu"])
    parser.add_argument("--ways", default=",".join(name for name in WAYS if name != "unquantized"))
    options = parser.parse_args()
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    folder = AdapterFolder.open(options.adapter)
    probes = ProbesFile.load(folder.path)
    results = {"probes": at_temperature(np.array(probes.log_probs), 1.0)}
    print(f"{folder.path}: probes of {probes.computation}, {probes.versions}", flush=True)
    for name in options.ways.split(","):
        if device == "cpu" and name in GPU_ONLY:
            continue
        classifier = Classifier.load(
            folder, base=options.base, device=device, verify=False, **WAYS[name]
        )
        start = time.perf_counter()
        now = probe_probabilities(classifier, probes)
        first = time.perf_counter() - start
        start = time.perf_counter()
        probe_probabilities(classifier, probes)
        again = time.perf_counter() - start
        differences = "  ".join(f"{other} {abs(now - p).max():.2g}" for other, p in results.items())
        flips = (now.argmax(1) != results["probes"].argmax(1)).sum()
        print(f"{name} ({computation_of(classifier)})")
        print(
            f"  {first:.3f} s, again {again:.3f} s, {flips} other answers; {differences}",
            flush=True,
        )
        results[name] = now
        del classifier
        gc.collect()


if __name__ == "__main__":
    main()
