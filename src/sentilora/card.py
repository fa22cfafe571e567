"""The model card beside the adapter: what it is, how it did, how to load it."""

from pathlib import Path
from typing import TYPE_CHECKING

from sentilora.overview import Overview

if TYPE_CHECKING:
    from sentilora.config import Config
    from sentilora.stages.train import TrainingResult


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
