"""The model card beside the adapter: what it is, how it did, how to load it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from sentilora.folders.run_folder import TrainingResult
from sentilora.shipped import EMBEDDED
from sentilora.wording import counted, percent, percent_interval


def write_model_card(
    folder: Path,
    result: TrainingResult,
    *,
    base_name: str,
    revision: str,
    quantization: str,
    r: int,
    lora_alpha: int,
    labels: Sequence[str],
    source: str,
    num_rows: Mapping[str, int],
) -> None:
    """README.md of the run folder. source: of the training rows; num_rows: of each split."""
    metrics = result.metrics
    accuracy = f"{percent(metrics.accuracy, 2)} ({percent_interval(metrics.accuracy_interval, 2)})"
    answers = ", ".join(labels)
    rows = ", ".join(f"{count:,} {name}" for name, count in num_rows.items())
    embedded = base_name == EMBEDDED
    hub_base = "" if embedded else f"base_model: {base_name}\n"
    load_base = "sentilora.embedded_base()" if embedded else f'"{base_name}"'
    import_base = "import sentilora\n" if embedded else ""
    card = f"""---
library_name: peft
{hub_base}pipeline_tag: text-classification
tags: [lora, qlora, text-classification, sentilora]
---

# A text classifier: LoRA on {base_name}

Answers with one of {answers}. Trained by [sentilora](https://pypi.org/project/sentilora/) with LoRA
r={r}, alpha={lora_alpha} on the base in {quantization}
(revision {revision}).

| evaluation rows | accuracy (95 % Wilson) | macro-F1 | log-loss |
|---|---|---|---|
| {metrics.num_rows} | {accuracy} | {metrics.macro_f1:.4f} | {metrics.log_loss:.4f} |

Rows: {rows}, from `{source}`. Best of {counted(result.num_steps, "step")}: {result.best_step}. The
evaluation rows chose the checkpoint. `sentilora evaluate --adapter {result.output_dir}`, where it
was trained, scores the untouched test rows; elsewhere say where they are: `data.test=…`.
Recipe: `sentilora.toml`. Hashes of the rows: `data.json`. Prompt and labels: `classifier.json`.

```python
import sentilora
sentilora.Classifier.load("{result.output_dir}").predict(["A lovely film."])
```

It is a plain PEFT adapter:

```python
{import_base}from peft import PeftModel
from transformers import AutoModelForCausalLM
base = AutoModelForCausalLM.from_pretrained({load_base})
model = PeftModel.from_pretrained(base, "{result.output_dir}")
```
"""
    (folder / "README.md").write_text(card, encoding="utf-8")
