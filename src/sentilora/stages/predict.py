"""Classify: texts from anywhere, with the label, a probability for each label, and what was cut.

sentilora predict "A lovely film."
sentilora predict --input reviews.csv --output labelled.csv
"""

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sentilora.data.rows import texts_of
from sentilora.data.sources import read_table
from sentilora.data.tables import SUFFIXES
from sentilora.data.text import require_text
from sentilora.errors import DataError, UsageError
from sentilora.progress import Progress, say
from sentilora.scoring.answers import Prediction
from sentilora.scoring.classifier import Classifier
from sentilora.scoring.explain import Explanation, explain_each
from sentilora.wording import as_probability, counted, signed

if TYPE_CHECKING:
    import pandas as pd


NUM_SHOWN = 5  # words for an answer, and against it


def predict(classifier: Classifier, texts: Sequence[str]) -> list[Prediction]:
    """Classify texts, with progress on stderr."""
    with Progress("classifying", len(texts)) as progress:
        return classifier.classify(texts, progress.advance)


def explain(classifier: Classifier, texts: Sequence[str]) -> list[Explanation]:
    """Which words moved each text's likeliest label; says how long that took."""
    started = time.perf_counter()
    found = explain_each(
        classifier.scorer,
        classifier.prompter,
        texts,
        [None] * len(texts),
        "explaining",
        classifier.calibration.temperature,
    )
    seconds = time.perf_counter() - started
    say(f"explained {counted(len(texts), 'text')} in {seconds:.1f} s")
    return found


def check_files(source: Path, output: Path | None) -> None:
    """What can be wrong with the files before a model is loaded."""
    if not source.is_file():
        raise DataError(f"there is no file {source}")
    if output is None:
        return
    if output.suffix.lower() not in SUFFIXES:
        raise UsageError(
            f"cannot tell the format of {output.name}; use one of {', '.join(SUFFIXES)}"
        )
    check_output(output)


def check_output(output: Path) -> None:
    """Raise `UsageError` when a file to write exists, or has no folder to be in."""
    folder = output.absolute().parent
    if output.exists():
        raise UsageError(f"{output} exists; remove it, or name another file with --output")
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder} to write {output.name} in")
    if not os.access(folder, os.W_OK):
        raise UsageError(f"{folder} may not be written to; name another file with --output")


def read_input(source: Path, text_column: str) -> "pd.DataFrame":
    """The table to classify: every column, in the file's order, the texts checked."""
    frame = read_table(str(source), "test", text_column)
    texts_of(str(source), frame, text_column)
    return frame


def add_predictions(frame: "pd.DataFrame", predictions: Sequence[Prediction]) -> "pd.DataFrame":
    """The table with columns `prediction`, `probability_<label>` and `truncated` added."""
    added: dict[str, list[Any]] = {"prediction": [p.label for p in predictions]}
    labels = list(predictions[0].probabilities) if predictions else []
    added |= {
        f"probability_{name}": [p.probabilities[name] for p in predictions] for name in labels
    }
    added["truncated"] = [p.truncated for p in predictions]
    return frame.assign(**added)


def check_columns(frame: "pd.DataFrame", labels: Sequence[str]) -> None:
    """Raise `DataError` when the table already has a column that predictions would be put in."""
    added = ["prediction", *(f"probability_{label}" for label in labels), "truncated"]
    taken = [name for name in added if name in frame.columns]
    if taken:
        raise DataError(f"the input already has a column {taken[0]!r}; rename it")


def as_json(text: str, prediction: Prediction, explanation: Explanation | None = None) -> str:
    """One line of `--json`: text, label, probabilities, truncated, and the words, if explained."""
    content: dict[str, Any] = {
        "text": text,
        "label": prediction.label,
        "probabilities": prediction.probabilities,
        "truncated": prediction.truncated,
    }
    if explanation is not None:
        content["explanation"] = {
            "label": explanation.label,
            "words": [
                {"word": text[word.start : word.end], **word._asdict()}
                for word in explanation.words
            ],
        }
    return json.dumps(content, ensure_ascii=False)


def as_line(text: str, prediction: Prediction, width: int = 60) -> str:
    """One line for a reader: label, its probability, the beginning of the text."""
    begin = " ".join(text.split())
    begin = begin if len(begin) <= width else begin[: width - 1] + "…"
    cut = "  (truncated)" if prediction.truncated else ""
    probability = max(prediction.probabilities.values())
    longest = max(map(len, (*prediction.probabilities, prediction.label)))
    return f"{prediction.label:<{longest}}  {as_probability(probability)}  {begin}{cut}"


def as_words(text: str, explanation: Explanation) -> str:
    """Lines for a reader: the words that weigh most for the answer and against it, in log-odds."""
    weighed = [
        (round(word.contribution, 2), text[word.start : word.end])
        for word in explanation.words
        if word.alone and word.contribution is not None
    ]
    weighed.sort(key=lambda pair: -abs(pair[0]))
    lines = []
    for name, sign in (("for", 1), ("against", -1)):
        chosen = [pair for pair in weighed if sign * pair[0] > 0][:NUM_SHOWN]
        said = "  ".join(f"{word} {signed(value, 2)}" for value, word in chosen)
        lines.append(f"    {name} {explanation.label}: {said or 'no word'}")
    num_unseen = sum(word.contribution is None for word in explanation.words)
    if num_unseen:
        words = counted(len(explanation.words), "word")
        lines.append(f"    not seen: {num_unseen:,} of {words} (cut)")
    return "\n".join(lines)


def check_texts(texts: Sequence[str]) -> None:
    """Raise `DataError` for no text or one that `encode` would refuse, before a model is loaded."""
    if not texts:
        raise DataError("there is no text to classify; stdin was empty")
    for number, text in enumerate(texts, 1):
        require_text(text, f"text {number}")
