"""Write labeled rows as records of a question and its answer, for other trainers and this one.

sentilora convert reviews.csv reviews.jsonl
"""

from pathlib import Path

from sentilora.config import Config
from sentilora.data.output import encode_table, write_encoded
from sentilora.data.records import Question, SoftKey, question_of, records_of
from sentilora.data.sources import load_rows, read_labeled
from sentilora.data.tables import suffix_of
from sentilora.errors import UsageError
from sentilora.places import path_of
from sentilora.progress import say
from sentilora.stages.automatic import fit_data, lines_of
from sentilora.stages.from_config import columns_of, prompt_format_of, tables_of, with_tables
from sentilora.stages.predict_file import check_new_file
from sentilora.wording import counted, quoted

SUFFIXES = (".jsonl", ".ndjson", ".json")
# Automatic settings that decide what is written.
USED = ("data.text_column", "data.label_column", "data.soft_labels", "prompt.labels")
NAME = "label"  # of the question, where the data have none


def convert(
    config: Config, out: str | Path, *, data: object = None, soft_key: SoftKey = "targets"
) -> int:
    """Write all rows of `data.train` to a new JSONL file as records; returns their number.

    Instruction, labels and soft labels are those that `train` would use; see `data.records` for the
    format. data: rows in memory, as in `train`. soft_key: where soft labels go. "targets" has the
    likeliest label beside it as the expected one; with "gold" it stands alone.

    Raises `DataError` for rows that `train` would refuse, `UsageError` for a file that exists or
    has another suffix.
    """
    path = path_of(out)
    require_json(path)
    check_new_file(path)
    tables = tables_of(data, "train")
    config, notes = fit_data(with_tables(config, tables), tables)
    for line in lines_of(config, {k: v for k, v in notes.items() if k in USED}):
        say(line)
    source = tables.get("data.train", config.data.train)
    format = prompt_format_of(config)
    rows = load_rows(source, "train", columns_of(config, format.labels))
    own = question_of(read_labeled(source, "train"))
    name = NAME if own is None else own.name
    instructions = format.instruction.replace("{labels}", format.words)
    question = Question(name, instructions, format.labels)
    write_encoded(encode_table(records_of(rows, question, soft_key), path), path)
    kind = f"soft labels, {rows.shares_from}" if rows.shares else "one label each"
    say(f"{counted(len(rows), 'record')} of {quoted(rows.source)} in {quoted(path)}: {kind}")
    return len(rows)


def require_json(path: Path) -> None:
    """Raise `UsageError` for the name of a file that is no JSON lines or list of JSON."""
    if suffix_of(path) not in SUFFIXES:
        raise UsageError(
            f"{quoted(path)} is not named as a file of JSON",
            setting="out",
            seen=str(path),
            remedy=f"end its name in {SUFFIXES[0]}",
        )
