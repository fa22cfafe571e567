"""Settings and rows that belong to an adapter: its test rows, and the rows it was trained on."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sentilora.config import CONFIG_FILE, Config, keyword_for, load_config, read_config
from sentilora.data.inference import are_numbers, columns_of_words, infer_columns
from sentilora.data.loading import HELD_OUT
from sentilora.data.memory import InMemory, was_passed
from sentilora.data.overview import label_warnings, meanings_of
from sentilora.data.rows import Rows
from sentilora.errors import DataError, UsageError
from sentilora.folders.adapter_folder import AdapterFolder
from sentilora.folders.run_folder import (
    Choices,
    DataRecord,
    SplitRecord,
    require_same_rows,
    seen_rows,
)
from sentilora.presets import DEFAULT_PRESET
from sentilora.progress import say
from sentilora.prompt import PromptFormat
from sentilora.shipped import EMBEDDED, adapter_name
from sentilora.stages.from_config import (
    held_out_test_of,
    load_rows_of,
    load_test_of,
    prompt_format_of,
    prompt_settings_of,
)
from sentilora.template import TEXT
from sentilora.wording import counted, listed, quoted

if TYPE_CHECKING:
    import pyarrow as pa


def settings_of(
    folder: AdapterFolder | None, overrides: Mapping[str, Any], preset: str | None = None
) -> tuple[Config, PromptFormat]:
    """Configuration and prompt of an adapter folder, or of a preset for a base alone."""
    if not isinstance(overrides, Mapping):
        raise UsageError(
            f"overrides is {overrides!r:.60}",
            setting="overrides",
            seen=overrides,
            remedy='pass a mapping such as {"data.num_test": 60}',
        )
    sections = ("data.", "prompt.") if folder is None else ("data.",)
    others = [key for key in overrides if not key.startswith((*sections, "prompt.ordered"))]
    if others:
        key, value = others[0], overrides[others[0]]
        raise UsageError(
            f"evaluate takes only {' and '.join(f'{name}*' for name in sections)} settings, not "
            f"{key!r}",
            setting=key,
            seen=value,
            remedy=keyword_for(f"{key}={value}")
            or "leave it out: prompt and base belong to the adapter",
        )
    if folder is None:
        config = load_config(preset or DEFAULT_PRESET, values=overrides)
        return config, prompt_format_of(config)
    stored = folder.require_classifier()
    run = folder.run
    if (run / CONFIG_FILE).is_file():
        config = read_config(run / CONFIG_FILE)
    elif "data.test" in overrides:
        config = load_config()
    else:
        raise UsageError(
            f"{quoted(folder.path)} has no {CONFIG_FILE} that names test rows",
            setting="data.test",
            remedy="give data.test=…",
        )
    config = config.with_values({**prompt_settings_of(stored.prompt), **overrides})
    if config.prompt.ordered and not stored.prompt.ordered:
        _warn_of_order(run, stored.prompt.labels)
    return config, replace(stored.prompt, ordered=config.prompt.ordered)


def _warn_of_order(run: Path, labels: tuple[str, ...]) -> None:
    """Say it if training put words in the order of the alphabet, which nobody meant as one."""
    if len(labels) > 2 and not are_numbers(labels) and "prompt.labels" in Choices.of(run).settings:
        say(
            f"warning: the labels are taken in the order {listed(labels)}, which training chose by "
            "the alphabet; if theirs is another, train with prompt.ordered=true and prompt.labels "
            "in their order"
        )


def text_column_of(folder: AdapterFolder) -> str:
    """The column of texts that an adapter was trained on; the usual one if that is not recorded."""
    path = folder.run / CONFIG_FILE
    if not path.is_file():
        return TEXT
    try:
        return read_config(path).data.text_column
    except DataError as error:  # of another version, perhaps: the adapter itself can be read
        say(f"texts are taken from column {TEXT!r}: {error.problem}")
        return TEXT


def load_test(
    config: Config,
    labels: Sequence[str],
    tables: Mapping[str, InMemory],
    overrides: Mapping[str, Any],
) -> Rows:
    """The test rows. overrides: what was set now, not when the adapter was trained.

    Warns about labels that no row has.
    """
    is_override = "data.test" in overrides
    is_held_out = config.data.test == HELD_OUT
    setting = "data.train" if is_held_out else "data.test"
    source = config.data.train if is_held_out else config.data.test
    path = Path(os.path.expanduser(source))
    try:
        rows = load_test_of(config, labels, tables, is_soft_set="data.soft_labels" in overrides)
    except DataError as error:
        if is_override or path.is_absolute() or source == EMBEDDED or os.path.exists(path):
            raise
        if was_passed(source):
            raise DataError(
                error.problem,
                setting="data.test",
                seen=source,
                remedy="name a file with data.test=FILE, or pass them again from Python",
            ) from error
        raise DataError(
            f"{error} (the adapter's {CONFIG_FILE} names it, as seen from the folder that it was "
            "trained in)",
            setting=setting,
            seen=source,
            remedy=f"say where it is: {setting}=…",
        ) from error
    for line in meanings_of({"test": rows}):
        say(f"labels of {line}")
    for warning in label_warnings("test", rows, labels):
        say(f"warning: {warning}")
    return rows


def require_same_test_rows(
    folder: AdapterFolder | None, config: Config, rows: Rows, tables: Mapping[str, InMemory]
) -> None:
    """Raise `DataError` if other rows are held out of the training source than in training.

    rows: the test rows, all of them unless `data.num_test` limits them.
    """
    if folder is None or not (folder.run / DataRecord.FILE).is_file():
        return
    recorded = DataRecord.load(folder.run).test
    if recorded is None or config.data.test != HELD_OUT:
        return
    if config.data.num_test:
        rows = held_out_test_of(config, tables) or rows
    if SplitRecord.of(rows).sha256 == recorded.sha256:
        return
    raise DataError(
        f"{quoted(rows.source)} has changed since training, and other test rows would be held out "
        f"of it ({recorded.num_rows:,} then, {len(rows):,} now; hashes differ)",
        setting="data.train",
        seen=rows.source,
        remedy="restore it, or name test rows with data.test=…",
    )


def text_column_in(names: Sequence[str], trained: str, tables: "Iterable[pa.Table]") -> str:
    """The column of texts: that of the training, or else one that its name or content tells.

    names: the file's columns. tables: its rows; the first ones are enough. What was chosen is
    printed.
    """
    column = trained if trained in names else infer_columns(names, trained, "label").get("text")
    if column is None:
        first = next(iter(tables), None)
        of_words = [] if first is None else columns_of_words(first)
        column = of_words[0] if len(of_words) == 1 else trained
    if column != trained:
        say(f"texts are taken from column {quoted(column)}: there is no column {quoted(trained)}")
    return column


@contextmanager
def belongs_to_adapter(folder: AdapterFolder | None) -> Iterator[None]:
    """Within a `with` block, a column or a label that does not fit is the adapter's to ask for.

    Its template and labels cannot be changed, so the remedy is not to change them. A plain
    adapter's are the user's own.
    """
    try:
        yield
    except DataError as error:
        if folder is None or folder.classifier is None:
            raise
        if error.setting == "prompt.template":
            remedy = "add this column to the rows: the prompt belongs to the adapter"
        elif error.setting == "data.label_map":
            entry = f'{json.dumps(error.seen, ensure_ascii=False)} = "…"'
            remedy = (
                f"map it, data.label_map='{{{entry}}}', or remove these rows: the labels belong to "
                "the adapter"
            )
        else:
            raise
        raise DataError(
            error.problem, setting=error.setting, seen=error.seen, remedy=remedy
        ) from error


def known_rows(
    folder: AdapterFolder | None,
    config: Config,
    rows: Rows,
    labels: Sequence[str],
    tables: Mapping[str, InMemory],
) -> tuple[tuple[Rows, Rows] | None, list[str]]:
    """Training and evaluation rows of the adapter's run, None when they are unavailable.

    The notes say why, and how many test rows are among them; the latter is a warning too.
    """
    if folder is None:
        return None, []
    notes = []
    if warning := overlap_warning(folder, rows, labels):
        say(f"warning: {warning}")
        notes.append(warning)
    unmeasured = "no baseline, no calibration, no threshold, no search for duplicates"
    run = folder.run
    if not (run / CONFIG_FILE).is_file() or not (run / DataRecord.FILE).is_file():
        name = adapter_name(run)
        name = quoted(run) if name == str(run) else name
        reason = f"{name} does not say which rows it was trained on"
        return None, [*notes, f"{unmeasured}: {reason}"]
    try:
        with belongs_to_adapter(folder):
            train, evaluation = load_rows_of(*_as_trained(run, config, tables))
        record = DataRecord.of(train, evaluation)
        require_same_rows(run, record)
    except (DataError, UsageError) as error:
        return None, [*notes, f"{unmeasured}: {error}"]
    return (train, evaluation), notes


def _as_trained(
    run: Path, config: Config, tables: Mapping[str, InMemory]
) -> tuple[Config, dict[str, InMemory]]:
    """Configuration and tables with the source of test rows that training had, if that matters.

    It does where test rows are held out of the training source, or are evaluation rows too.
    """
    data = read_config(run / CONFIG_FILE).data
    if data.test != HELD_OUT and data.evaluation != "test":
        return config, dict(tables)
    others = {setting: table for setting, table in tables.items() if setting != "data.test"}
    return config.with_values({"data.test": data.test}), others


def overlap_warning(folder: AdapterFolder, rows: Rows, labels: Sequence[str]) -> str:
    """How many test rows the adapter was trained or chosen on; empty for none."""
    splits = {"train": "training", "evaluation": "evaluation"}
    parts = [
        f"{count:,} among its {splits[name]} rows"
        for name, count in seen_rows(folder.run, rows, labels).items()
        if count
    ]
    if not parts:
        return ""
    return (
        f"of the {counted(len(rows), 'test row')}, the adapter has seen {' and '.join(parts)}: "
        "its accuracy there says little about unseen text; give other rows with data.test=…"
    )
