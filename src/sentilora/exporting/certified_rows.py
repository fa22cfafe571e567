"""The rows that an export is certified on: texts that everybody may read, and evaluation rows.

The public ones, 200 of them, travel beside the certificate with what the trained model answers, so
that anybody can repeat the comparison. Of evaluation rows nothing leaves the run's folder.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sentilora.data.text import Item, text_of
from sentilora.errors import DataError
from sentilora.prompt import Prompter
from sentilora.scoring.answers import at_temperature
from sentilora.scoring.probe_texts import FIELD_LENGTH, PROBE_TEXTS
from sentilora.shipped import reviews_path
from sentilora.template import TEXT
from sentilora.wording import quoted

if TYPE_CHECKING:
    import numpy as np

    from sentilora.scoring.classifier import Classifier

NUM_PUBLIC = 200
MAX_EVALUATION = 200  # of the evaluation rows: the first ones, which are in random order
ROWS_FILE = "parity_rows.jsonl"

Origin = Literal["probe", "shipped", "evaluation"]


@dataclass(frozen=True)
class Row:
    """A prompt as a string and as the trained model's tokens, with that model's probabilities.

    as_tokens: whether a program that reads the string would take some of its text for special
    tokens, so that it must be given the tokens.
    """

    origin: Origin
    prompt: str
    input_ids: list[int]
    as_tokens: bool
    probabilities: list[float]


def rows_of(classifier: "Classifier", evaluation: Sequence[Item]) -> list[Row]:
    """The public rows and the first evaluation rows, scored by the trained model."""
    import numpy as np

    prompter = classifier.prompter
    pairs: list[tuple[Origin, Item]] = public_items(prompter)
    pairs += [("evaluation", item) for item in evaluation[:MAX_EVALUATION]]
    scores = classifier.score([item for _, item in pairs])
    log_probs = np.concatenate([piece.log_probs for piece in scores])
    special = _special_tokens(prompter)
    rows = []
    for (origin, item), answer in zip(pairs, at_temperature(log_probs, 1.0), strict=True):
        prompt = prompter.encode(item)
        values = [text_of(item)] if isinstance(item, str) else list(item.values())
        is_mixed = bool(prompter.special_tokens) and any(
            token in value for token in special for value in values
        )
        rows.append(Row(origin, prompt.string, prompt.input_ids, is_mixed, answer.tolist()))
    return rows


def public_items(prompter: Prompter) -> list[tuple[Origin, Item]]:
    """The probe texts and reviews that ship; records where the prompt shows other columns too.

    A record's other columns are beginnings of the next texts, or empty where these do not fit.
    """
    texts: list[tuple[Origin, str]] = [("probe", text) for text in PROBE_TEXTS]
    for split in ("test", "train"):
        lines = reviews_path(split).read_text(encoding="utf-8").strip().split("\n")
        texts += [("shipped", json.loads(line)["text"]) for line in lines]
    texts = texts[:NUM_PUBLIC]
    columns = prompter.format.columns
    if not columns:
        return list(texts)
    items: list[tuple[Origin, Item]] = []
    for number, (origin, text) in enumerate(texts):
        fields = {
            column: texts[(number + place) % len(texts)][1][:FIELD_LENGTH]
            for place, column in enumerate(columns, 1)
        }
        item: Item = {TEXT: text, **fields}
        try:
            prompter.encode(item)
        except DataError:
            item = {TEXT: text, **dict.fromkeys(columns, "")}
        items.append((origin, item))
    return items


def _special_tokens(prompter: Prompter) -> list[str]:
    tokens = prompter.tokenizer.added_tokens_decoder.values()
    return [token.content for token in tokens if token.special and token.content]


def probabilities_of(rows: Sequence[Row]) -> "np.ndarray":
    """The trained model's probabilities, float64 (rows, labels)."""
    import numpy as np

    return np.array([row.probabilities for row in rows], dtype=np.float64)


def save_rows(rows: Sequence[Row], folder: Path) -> None:
    """Write the public rows, one line of JSON each."""
    lines = [
        json.dumps(
            {
                "origin": row.origin,
                "prompt": row.prompt,
                "input_ids": row.input_ids,
                "as_tokens": row.as_tokens,
                "probabilities": [round(p, 10) for p in row.probabilities],
            },
            ensure_ascii=False,
        )
        for row in rows
        if row.origin != "evaluation"
    ]
    (folder / ROWS_FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")


def load_rows(folder: Path) -> list[Row]:
    """The public rows of an export. Raises `DataError` when they are missing or damaged."""
    path = folder / ROWS_FILE
    try:
        # splitlines() would also split at other characters, which can occur within a text.
        lines = path.read_text(encoding="utf-8").strip().split("\n")
        rows = [Row(**json.loads(line)) for line in lines]
        if not rows or len({len(row.probabilities) for row in rows}) != 1:
            raise ValueError("its rows do not match")
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            f"{quoted(path)} cannot be read ({type(error).__name__})",
            setting="folder",
            seen=str(path),
            remedy="export the adapter again",
        ) from error
    return rows
