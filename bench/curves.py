"""Loss curves of the engine beside plain Trainer + PEFT + bitsandbytes: same rows, order and seed.

    python bench/curves.py --base BASE --data imdb --output curves        # a GPU: 8 bits, too
    python bench/curves.py --base embedded --data imdb --output curves    # a CPU

BASE and imdb as for `bench/training.py`, whose stacks are run here without dropout. How far two
plain runs, 4 × 4 and 16 × 1, lie apart is what rounding does; the engine may be twice as far from
the first of them at any step. `curves.png` and `losses.json` go to the output folder.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

TRAINING = Path(__file__).with_name("training.py")
NAMES = {
    "tuned": "plain, 4 × 4",
    "tuned16": "plain, 16 × 1",
    "engine": "engine",
    "fp8": "engine, 8-bit products",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--base", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()
    import torch

    options.output.mkdir(parents=True, exist_ok=True)
    stacks = [name for name in NAMES if name != "fp8" or torch.cuda.is_available()]
    losses = {stack: losses_of(stack, options) for stack in stacks}
    (options.output / "losses.json").write_text(json.dumps(losses, indent=1), encoding="utf-8")
    draw(losses, options.output / "curves.png")
    apart = distance(losses["tuned"], losses["tuned16"])
    print(f"the two plain runs are up to {apart:.2g} apart; allowed is twice that")
    for stack in stacks[2:]:
        found = distance(losses["tuned"], losses[stack])
        print(f"{NAMES[stack]}: up to {found:.2g} from {NAMES['tuned']}")
    if distance(losses["tuned"], losses["engine"]) > 2 * apart:
        raise SystemExit("the engine's curve is further away than rounding explains")


def losses_of(stack: str, options: argparse.Namespace) -> list[float]:
    """Of every step, from a process of its own."""
    command = [sys.executable, str(TRAINING), "--base", options.base, "--data", options.data]
    command += ["--steps", str(options.steps), "--set", "lora.lora_dropout=0", "--run", stack]
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{stack} failed: {done.stderr.strip().splitlines()[-1]}")
    found = json.loads(done.stdout.strip().splitlines()[-1])
    print(f"{NAMES[stack]}: {found['median']:.3f} s a step", flush=True)
    losses: list[float] = found["losses"][: options.steps]
    return losses


def distance(one: list[float], other: list[float]) -> float:
    """The largest at any step."""
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def draw(losses: dict[str, list[float]], path: Path) -> None:
    """All curves, and below them how far each is from the first."""
    import matplotlib.pyplot as plt

    figure, (above, below) = plt.subplots(2, sharex=True, figsize=(8, 7), layout="constrained")
    first = losses["tuned"]
    for stack, values in losses.items():
        steps = range(1, len(values) + 1)
        above.plot(steps, values, label=NAMES[stack], linewidth=1.2)
        if stack != "tuned":
            apart = [a - b for a, b in zip(values, first, strict=True)]
            below.plot(steps, apart, label=f"{NAMES[stack]} − {NAMES['tuned']}", linewidth=1.2)
    above.set_ylabel("loss of the step")
    below.set_ylabel("difference")
    below.set_xlabel("step")
    for axes in (above, below):
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
