"""Runs that a test trains in seconds on rows of its own."""

import json
import signal

import sentilora
from sentilora.config import load_config

SHORT = {"training.max_steps": 2, "training.eval_steps": 2, "training.save_steps": 2,
         "data.num_train": 30, "data.num_evaluation": 12, "base.device": "cpu"}  # fmt: skip


# Prompts half as long as the recipe's, of many lengths, and with a beginning that they share.
BRIEF = ['prompt.template="{instruction}\\n{text}\\n=\\n"', "prompt.instruction={labels}?",
         "prompt.max_length=128"]  # fmt: skip


def train_on(rows, base, folder, **values):
    """The folder of a run on these rows."""
    source = folder / "rows.jsonl"
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    source.write_text("\n".join(lines), encoding="utf-8")
    values = {**SHORT, "base.name": str(base), "output_dir": str(folder / "run"),
              "data.train": str(source), "data.test": str(source), **values}  # fmt: skip
    sentilora.train(load_config("tiny", values=values))
    return folder / "run"


def interrupt_in_step(monkeypatch, number):
    """Make Ctrl-C arrive in this step of the next training, counted from 1."""
    from sentilora.training.trainer import ClassifierTrainer

    whole, calls = ClassifierTrainer.training_step, []

    def training_step(self, *args, **kwargs):
        calls.append(args)
        if len(calls) == number:
            signal.raise_signal(signal.SIGINT)
        return whole(self, *args, **kwargs)

    monkeypatch.setattr(ClassifierTrainer, "training_step", training_step)


def texts_file(folder, num=240, labeled=0):
    """A file of texts to distill on, the first of them with a true label."""
    lines = []
    for i in range(num):
        word = ("lovely", "dull")[i % 2]
        row = {"text": f"A {word} film, {word} from scene {i} to scene {i * 7 % 101}."}
        row["label"] = ("pos", "neg")[i % 2] if i < labeled else ("unsup" if i % 5 == 0 else None)
        lines.append(json.dumps(row))
    (folder / "texts.jsonl").write_text("\n".join(lines))
    return folder / "texts.jsonl"


def student_settings(base, folder, **values):
    """The settings of a distillation of four steps."""
    quick = {
        "training.max_steps": 4, "training.eval_steps": 2, "training.save_steps": 2,
        "base.name": str(base), "base.device": "cpu", "output_dir": str(folder),
    }  # fmt: skip
    return load_config("tiny", values=quick | values)
