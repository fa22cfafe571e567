"""Loss curves of the engine and of plain Trainer + PEFT + bitsandbytes: same rows, order and seed.

    python bench/curves.py --base BASE --data imdb --output curves        # a GPU
    python bench/curves.py --base embedded --data imdb --output curves    # a CPU

BASE and imdb are as for `bench/training.py`, whose stacks run here without dropout. The reference
is a plain run in float32. The other plain runs differ from it by rounding and the order of sums.
The engine's largest difference from it, over all steps, may be at most twice theirs. On a CPU all
runs use float32. `curves.png` and `losses.json` are written to the output folder. Curves that
`losses.json` already contains are not run again.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

TRAINING = Path(__file__).with_name("training.py")
EXACT = "plain, float32, 4 × 4"
# Name of a curve: its stack in bench/training.py, and settings.
CURVES = {
    EXACT: ("tuned", ["base.compute_dtype=float32"]),
    "plain, 4 × 4": ("tuned", []),
    "plain, 16 × 1": ("tuned16", []),
    "engine": ("engine", []),
    "engine, 8-bit products": ("fp8", []),
}
ONLY_ON_GPUS = ("plain, 4 × 4", "engine, 8-bit products")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--base", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()
    import torch

    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "losses.json"
    losses = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for name in CURVES:
        if name in losses or (name in ONLY_ON_GPUS and not torch.cuda.is_available()):
            continue
        losses[name] = losses_of(name, options)
        path.write_text(json.dumps(losses, indent=1), encoding="utf-8")
    draw(losses, options.output / "curves.png")
    distances = {name: distance(losses[EXACT], values) for name, values in losses.items()}
    for name, value in distances.items():
        if name != EXACT:
            print(f"{name}: up to {value:.2g} from {EXACT}")
    limit = 2 * max(value for name, value in distances.items() if name.startswith("plain"))
    if distances["engine"] > limit:
        raise SystemExit(f"the engine's curve differs by more than {limit:.2g}")


def losses_of(name: str, options: argparse.Namespace) -> list[float]:
    """Loss of every step of a curve, computed in a process of its own."""
    stack, settings = CURVES[name]
    command = [sys.executable, str(TRAINING), "--base", options.base, "--data", options.data]
    command += ["--steps", str(options.steps), "--run", stack]
    for setting in ("lora.lora_dropout=0", *settings):
        command += ["--set", setting]
    process = subprocess.run(command, capture_output=True, text=True)
    if process.returncode:
        raise SystemExit(f"{name} failed: {process.stderr.strip().splitlines()[-1]}")
    result = json.loads(process.stdout.strip().splitlines()[-1])
    print(f"{name}: {result['median']:.3f} s per step", flush=True)
    losses: list[float] = result["losses"][: options.steps]
    return losses


def distance(one: list[float], other: list[float]) -> float:
    """The largest absolute difference of two curves at any step."""
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def draw(losses: dict[str, list[float]], path: Path) -> None:
    """Plot all curves, and below them their differences from the reference."""
    import matplotlib.pyplot as plt

    figure, (above, below) = plt.subplots(2, sharex=True, figsize=(8, 7), layout="constrained")
    for number, name in enumerate(name for name in CURVES if name in losses):
        steps = range(1, len(losses[name]) + 1)
        style = {"color": f"C{number}", "linewidth": 1.2, "label": name}
        above.plot(steps, losses[name], **style)
        differences = [a - b for a, b in zip(losses[name], losses[EXACT], strict=True)]
        below.plot(steps, differences, **style)
    above.set_ylabel("loss of the step")
    below.set_ylabel(f"difference from {EXACT}")
    below.set_xlabel("step")
    above.legend(frameon=False)
    for axes in (above, below):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
