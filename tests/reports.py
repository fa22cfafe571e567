"""A report of made-up scores, and its page in a browser."""

from dataclasses import replace

import numpy as np

from sentilora.data.rows import Rows
from sentilora.evaluation.advice import next_steps
from sentilora.evaluation.calibration import Temperature, Threshold
from sentilora.evaluation.differences import differences
from sentilora.evaluation.findings import (
    Abstention,
    Evaluation,
    Leakage,
    RowScores,
    TemperatureScaling,
)
from sentilora.evaluation.label_figures import majority_of, one_answer_warning, per_label
from sentilora.evaluation.leakage import Twin
from sentilora.evaluation.page import (
    Provenance,
    write_report,
)
from sentilora.evaluation.survivors import survivors
from sentilora.metrics import compare, measure_fully

ATTACK = (
    "</script><script>document.title='broken'</script><img src=x onerror=alert(1)> \u2028 & <b>"
)


def make_scores(num_rows, num_labels=2, seed=0, strength=1.2):
    random = np.random.default_rng(seed)
    truth = random.integers(0, num_labels, num_rows)
    signal = np.eye(num_labels)[truth]

    def draw(strength):
        scores = random.normal(size=(num_rows, num_labels)) + strength * signal
        return np.exp(scores) / np.exp(scores).sum(1, keepdims=True)

    return RowScores(truth, draw(strength), draw(0.3), draw(0.9), random.random(num_rows) < 0.2)


def whole(text):
    return [(0, len(text))]


def make_report(
    folder,
    num_rows=2600,
    num_labels=2,
    explain=None,
    strength=1.2,
    kept=whole,
    caution=None,
    usual=None,
    comparisons=None,
    labels=("positive", "negative", *(f"label{i}" for i in range(2, 20))),
    **more,
):
    scores = make_scores(num_rows, num_labels, strength=strength)
    if usual is not None:  # the adapter gives one answer for all
        scores.adapter[:] = np.eye(num_labels)[usual] * 0.5 + 0.5 / num_labels
    labels = labels[:num_labels]
    random = np.random.default_rng(1)
    texts = [
        f"review number {i} " + "word " * int(random.integers(1, 300)) for i in range(num_rows)
    ]
    sure = scores.adapter.max(-1) * (scores.adapter.argmax(-1) != scores.truth)
    texts[int(sure.argmax())] = ATTACK  # the surest error: the first that the page shows
    rows = Rows("reviews.csv", texts, [labels[i] for i in scores.truth])
    texts[3] = f"near {ATTACK}"
    twins = [Twin(i, "train", i, 1.0, True) for i in range(10, min(300, num_rows))]
    twins += [Twin(i, "train", 7, 0.7 + i / 100, False) for i in (3, 4, 5)]
    right = [p.argmax(-1) == scores.truth for p in (scores.adapter, scores.base, scores.baseline)]
    metrics = measure_fully(scores.adapter, scores.truth)
    comparisons = comparisons or {
        "base": compare(right[0], right[1]),
        "baseline": compare(right[0], right[2]),
    }
    result = Evaluation(
        test="reviews.csv",
        num_rows=num_rows,
        num_truncated=int(scores.truncated.sum()),
        labels=labels,
        adapter_path="my-adapter",
        base_name="embedded",
        adapter=metrics,
        base=measure_fully(scores.base, scores.truth),
        baseline=measure_fully(scores.baseline, scores.truth),
        comparisons=comparisons,
        differences={
            name: differences(scores.adapter, other, scores.truth, num_resamples=100)
            for name, other in (("base", scores.base), ("baseline", scores.baseline))
        },
        survivors=survivors(scores.adapter, scores.truth),
        verdict="It was worth it.",
        calibrated=TemperatureScaling(Temperature(1.2, 0.3, 0.29, caution), 400, metrics),
        abstention=Abstention(Threshold(0.9, 0.98, 0.981, 300, 400), num_rows // 2, 0.99),
        leakage=Leakage(twins, len(twins) - 3, 3, True, metrics, 5, 2),
        missing=["nothing of note"],
        explained=None if explain is None else explain(scores, texts),
        majority=majority_of(labels, scores.truth, None),
        per_label=per_label(labels, metrics.confusion),
        warning=one_answer_warning(per_label(labels, metrics.confusion), is_trained=True),
        **more,
    )
    result = replace(result, next_steps=next_steps(result))
    history = [{"step": 10, "loss": 2.0}, {"step": 20, "loss": 1.5},
               {"step": 20, "eval_accuracy": 0.7, "eval_log_loss": 0.5},
               {"step": 30, "loss": float("nan")}]  # fmt: skip
    known = {"train": Rows("train.csv", [f"known {i} {ATTACK}" for i in range(300)], [])}
    provenance = Provenance(history, "[lora]\nr = 16\n", {"sentilora": "0.1.0"})
    page = write_report(folder, result, scores, rows, provenance, kept, known)
    return page, scores, rows


def opened(browser, path, **options):
    """The page, what it said on the console, and what it asked for."""
    page = browser.new_context(**options).new_page()
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.on("dialog", lambda dialog: said.append("a dialog"))
    page.goto(path.as_uri())
    return page, said, asked
