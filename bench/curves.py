"""Loss curves of the engine beside plain Trainer + PEFT + bitsandbytes: same rows, order and seed.

    python bench/curves.py --base BASE --data imdb --output curves        # a GPU
    python bench/curves.py --base embedded --data imdb --output curves    # a CPU

BASE and imdb as for `bench/training.py`, whose stacks are run here without dropout. The first curve
is a plain run in float32. How far the other plain runs get from it is what rounding and the order
of sums do; at any step the engine may be twice as far from it as they are at most. On a CPU all
runs are in float32. `curves.png` and `losses.json` go to the output folder; curves that stand in
the latter are not run again.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

TRAINING = Path(__file__).with_name("training.py")
EXACT = "plain, float32, 4 × 4"
# Name: stack of bench/training.py, its settings.
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
    apart = {name: distance(losses[EXACT], values) for name, values in losses.items()}
    for name, found in apart.items():
        if name != EXACT:
            print(f"{name}: up to {found:.2g} from {EXACT}")
    allowed = 2 * max(found for name, found in apart.items() if name.startswith("plain"))
    if apart["engine"] > allowed:
        raise SystemExit(f"the engine's curve is further away than {allowed:.2g}")


def losses_of(name: str, options: argparse.Namespace) -> list[float]:
    """Of every step, from a process of its own."""
    stack, settings = CURVES[name]
    command = [sys.executable, str(TRAINING), "--base", options.base, "--data", options.data]
    command += ["--steps", str(options.steps), "--run", stack]
    for setting in ("lora.lora_dropout=0", *settings):
        command += ["--set", setting]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name} failed: {done.stderr.strip().splitlines()[-1]}")
    found = json.loads(done.stdout.strip().splitlines()[-1])
    print(f"{name}: {found['median']:.3f} s a step", flush=True)
    losses: list[float] = found["losses"][: options.steps]
    return losses


def distance(one: list[float], other: list[float]) -> float:
    """The largest at any step."""
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def draw(losses: dict[str, list[float]], path: Path) -> None:
    """All curves, and below them how far each is from the first."""
    import matplotlib.pyplot as plt

    figure, (above, below) = plt.subplots(2, sharex=True, figsize=(8, 7), layout="constrained")
    for number, name in enumerate(name for name in CURVES if name in losses):
        steps = range(1, len(losses[name]) + 1)
        style = {"color": f"C{number}", "linewidth": 1.2, "label": name}
        above.plot(steps, losses[name], **style)
        apart = [a - b for a, b in zip(losses[name], losses[EXACT], strict=True)]
        below.plot(steps, apart, **style)
    above.set_ylabel("loss of the step")
    below.set_ylabel(f"difference from {EXACT}")
    below.set_xlabel("step")
    above.legend(frameon=False)
    for axes in (above, below):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
