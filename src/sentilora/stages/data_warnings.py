"""Warnings about data and base together, which `check` and `train` both print."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from sentilora.data.inference import columns_of_words, look_like_ids
from sentilora.data.language import is_other_language
from sentilora.data.loading import HELD_OUT
from sentilora.data.memory import InMemory
from sentilora.data.rows import Rows
from sentilora.data.shared_templates import look_for_templates
from sentilora.data.sources import read_table
from sentilora.data.text import beginning, text_of
from sentilora.errors import DataError
from sentilora.shipped import EMBEDDED, EMBEDDED_KNOWS, REAL_BASE, is_film_reviews
from sentilora.stages.from_config import load_test_of
from sentilora.training.shortfall import TOO_FEW_ROWS
from sentilora.wording import counted, listed, percent, quoted

if TYPE_CHECKING:
    from sentilora.config import Config

NUM_TEXTS = 200  # whose language is looked at
SHOWN = 60  # characters of a text


def data_warnings(
    config: "Config", train: Rows, evaluation: Rows, tables: Mapping[str, InMemory]
) -> list[str]:
    """What `train` prints before it starts; nothing on the recipe's own data."""
    if is_film_reviews(config.data.train):
        return []
    warnings = (
        text_warning(config, train, tables) or base_warning(config, train),
        template_warning(train, evaluation),
        few_rows_warning(evaluation),
        test_warning(config, tables),
    )
    return [warning for warning in warnings if warning]


def test_warning(config: "Config", tables: Mapping[str, InMemory]) -> str | None:
    """A warning when `evaluate` will refuse the test rows, which training does not need."""
    if config.data.test == HELD_OUT or is_film_reviews(config.data.test):
        return None
    try:
        load_test_of(config, config.prompt.labels, tables)
    except DataError as error:
        return f"evaluate will refuse the test rows: {error}"
    return None


def text_warning(config: "Config", train: Rows, tables: Mapping[str, InMemory]) -> str | None:
    """A warning when the texts are ids or numbers, and which columns hold texts."""
    texts = [text_of(item) for item in train.inputs[:NUM_TEXTS]]
    if is_film_reviews(config.data.train) or not look_like_ids(texts):
        return None
    table = read_table(tables.get("data.train", config.data.train), "train")
    others = listed(columns_of_words(table))
    where = f"; longer texts are in {others}" if others else ""
    return (
        f"the texts in column {quoted(config.data.text_column)} look like ids or numbers, such as "
        f"{quoted(beginning(texts[0], SHOWN))}, from which no model learns much{where}; name "
        "another column with data.text_column"
    )


def base_warning(config: "Config", train: Rows) -> str | None:
    """A warning when the base that ships is trained on other data than it was made for."""
    if config.base.name != EMBEDDED or is_film_reviews(config.data.train):
        return None
    texts = [text_of(item) for item in train.inputs[:NUM_TEXTS]]
    language = ", and these texts do not look English" if is_other_language(texts) else ""
    return (
        f"the embedded base {EMBEDDED_KNOWS}{language}. For other texts TF-IDF may well be ahead "
        f"of it: take {REAL_BASE}"
    )


def few_rows_warning(evaluation: Rows) -> str | None:
    """A warning when the evaluation rows are too few to show what was learned."""
    if len(evaluation) >= TOO_FEW_ROWS:
        return None
    rows = counted(len(evaluation), "evaluation row")
    return (
        f"{rows} can hardly show whether training has learned anything: add labeled rows until "
        f"{TOO_FEW_ROWS} or more evaluate"
    )


def template_warning(train: Rows, evaluation: Rows) -> str | None:
    """A warning when most evaluation rows are training rows but for a few words."""
    known, new = train.inputs, evaluation.inputs
    templates = look_for_templates(known, new)
    if not templates.is_suspicious or templates.pair is None:
        return None
    i, j = templates.pair
    one, other = (beginning(text_of(item), SHOWN) for item in (new[i], known[j]))
    return (
        f"{percent(templates.num_alike / templates.num_looked_at)} of the evaluation rows are a "
        f"training row but for a few words, such as {one!r} and {other!r}: they look filled into "
        "shared templates, and accuracy on them measures memory. Evaluate and test on rows whose "
        "templates are not in training"
    )
