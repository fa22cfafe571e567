"""What a run says of itself: the model card beside the adapter, and the notices before training."""

from pathlib import Path
from typing import TYPE_CHECKING

from sentilora.data import Overview
from sentilora.progress import say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sentilora.config import Config
    from sentilora.prompt import PromptFormat
    from sentilora.stages.train import TrainingResult

HISTOGRAM_EDGES = (64, 128, 256, 512, 1024, 2048)


def length_histogram(lengths: "Sequence[int]") -> str:
    """Token lengths as counts per range: "≤64: 3, 65–128: 20, …" (empty ranges left out)."""
    parts, low = [], 0
    for high in (*HISTOGRAM_EDGES, max([*lengths, HISTOGRAM_EDGES[-1]]) + 1):
        count = sum(low < length <= high for length in lengths)
        if count:
            name = f"≤{high}" if low == 0 else f"{low + 1}–{high}"
            parts.append(f"{name if high in HISTOGRAM_EDGES else f'>{low}'}: {count:,}")
        low = high
    return ", ".join(parts)


def show_overview(overview: Overview) -> None:
    """Rows, balance, duplicates and warnings, as notices."""
    for name, counts in overview.balance.items():
        balance = ", ".join(f"{count:,} {label}" for label, count in counts.items())
        repeated = overview.duplicates[name]
        say(f"{name}: {overview.num_rows[name]:,} rows ({balance}), {repeated} exact duplicates")
    for warning in overview.warnings:
        say(f"warning: {warning}")


def show_lengths(lengths: "Sequence[int]", num_truncated: int, format: "PromptFormat") -> None:
    """Token lengths of the training examples and how many were cut."""
    say(f"tokens per example: {length_histogram(lengths)}; mean {sum(lengths) / len(lengths):.0f}")
    say(
        f"truncated to {format.max_length} tokens ({format.truncation}): {num_truncated:,} of "
        f"{len(lengths):,} ({num_truncated / len(lengths):.1%})"
    )


def write_model_card(
    folder: Path, config: "Config", overview: Overview, result: "TrainingResult"
) -> None:
    """README.md of the run folder: what it is, how it did, how to load it."""
    metrics, base = result.metrics, config.base
    low, high = metrics.accuracy_interval
    accuracy = f"{metrics.accuracy:.2%} ({low:.2%} – {high:.2%})"
    labels = ", ".join(config.prompt.labels)
    rows = ", ".join(f"{count:,} {name}" for name, count in overview.num_rows.items())
    hub_base = f"base_model: {base.name}\n" if base.name != "embedded" else ""
    load_base = "sentilora.embedded_base()" if base.name == "embedded" else f'"{base.name}"'
    card = f"""---
library_name: peft
{hub_base}pipeline_tag: text-classification
tags: [lora, qlora, text-classification, sentilora]
---

# A text classifier: LoRA on {base.name}

Answers with one of {labels}. Trained by [sentilora](https://pypi.org/project/sentilora/) with LoRA
r={config.lora.r}, alpha={config.lora.lora_alpha} on the base in {base.quantization}
(revision {base.revision}).

| evaluation rows | accuracy (95 % Wilson) | macro-F1 | log-loss |
|---|---|---|---|
| {metrics.num_rows} | {accuracy} | {metrics.macro_f1:.4f} | {metrics.log_loss:.4f} |

Rows: {rows}, from `{config.data.train}`. Best of {result.num_steps} steps: {result.best_step}. The
evaluation rows chose the checkpoint; `sentilora evaluate --adapter .` scores the untouched test
rows.
Recipe: `sentilora.toml`. Hashes of the rows: `data.json`. Prompt and labels: `classifier.json`.

```python
import sentilora
sentilora.Classifier.load("{config.output_dir}").predict(["A lovely film."])
```

It is a plain PEFT adapter:

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM
base = AutoModelForCausalLM.from_pretrained({load_base})
model = PeftModel.from_pretrained(base, "{config.output_dir}")
```
"""
    (folder / "README.md").write_text(card, encoding="utf-8")
