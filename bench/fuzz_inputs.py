"""Inputs for bench/fuzz.py, made from valid ones: changed, damaged, nested, packed."""

import gzip
import json
from functools import cache
from typing import Any

from hypothesis import strategies as st

from sentilora.config import load_config

DEEP = ["[" * 10_000 + "]" * 10_000, '{"a":' * 10_000 + "1" + "}" * 10_000, "[" * 10_000]
HOSTILE = ["../../etc/passwd", "/dev/zero", "\x1b[2J", "\ud800", "(.+)+x", "\0"]

# --- JSON ----------------------------------------------------------------------------------------

numbers = st.integers() | st.integers(-5, 9) | st.just(10**400) | st.floats()
leaves = st.none() | st.booleans() | numbers | st.text(max_size=12) | st.sampled_from(HOSTILE)
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4)
    ),
    max_leaves=12,
)


@st.composite
def changed(draw: st.DrawFn, value: Any) -> Any:
    """A JSON value with one to three places that hold something else, or nothing."""
    value = json.loads(json.dumps(value))
    for _ in range(draw(st.integers(1, 3))):
        place, parent, key = value, None, None
        while isinstance(place, dict | list) and place and draw(st.integers(0, 3)):
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            parent, key = place, draw(st.sampled_from(keys))
            place = parent[key]
        if parent is None:
            return draw(values)
        if draw(st.booleans()):
            parent[key] = draw(values)
        else:
            del parent[key]
    return value


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Bytes with one to three places cut out, doubled, overwritten or filled in."""
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(content)))
        end = min(len(content), start + draw(st.integers(0, 40)))
        piece = draw(st.binary(max_size=20) | st.just(content[start:end] * 2))
        content = content[:start] + piece + content[end:]
    return content


def documents(value: Any) -> st.SearchStrategy[bytes]:
    """Bytes of a JSON file: valid, changed, damaged, nested too deeply, or anything."""
    text = json.dumps(value).encode()
    as_bytes = changed(value).map(lambda item: json.dumps(item).encode())
    deep = st.sampled_from(DEEP).map(str.encode)
    return st.just(text) | as_bytes | damaged(text) | deep | st.binary(max_size=40)


# --- settings and prompts ------------------------------------------------------------------------

PRESETS = ["tiny", "mistral-7b", "smollm2-135m"]
SETTINGS = load_config("tiny").flat()
toml_values = values.map(json.dumps) | st.text(max_size=30) | st.sampled_from(DEEP)


@st.composite
def setting_lines(draw: st.DrawFn, between: str) -> list[str]:
    """Settings with values: mostly others than they have, some with names that do not exist."""
    lines = []
    for _ in range(draw(st.integers(0, 2))):
        name = draw(st.sampled_from(sorted(SETTINGS)))
        value = draw(st.just(json.dumps(SETTINGS[name])) | toml_values)
        lines.append(f"{name}{between}{value}")
    return lines + draw(st.just([]) | st.lists(st.text(max_size=40), max_size=1))


USABLE = ["{labels}", "{title}", "</s>", "<s>", "\r\n", "{{text}}", "Label: "]
PIECES = [*USABLE, "{instruction}", "{", "}"]
usable = st.lists(st.sampled_from(USABLE), max_size=4).map("".join)
pieces = usable | st.lists(st.sampled_from(PIECES) | st.text(max_size=10), max_size=4).map("".join)
labels = st.just(["good", "bad"]) | st.lists(st.text(max_size=8), max_size=4)


@st.composite
def prompt_parts(draw: st.DrawFn) -> tuple[str, str, tuple[str, ...], int]:
    """Template, instruction, labels and the number of tokens; some of them can be used."""
    ends = ["{text}\n", "{text}\n", "{text}\nLabel:\n", "{text}", "{text} {text}\n", ""]
    template = draw(pieces) + draw(st.sampled_from(ends))
    return (
        template,
        draw(pieces),
        tuple(draw(labels)),
        draw(st.sampled_from([300, 200, 100, 60, 20, 1, 0, -1])),
    )


# --- tables --------------------------------------------------------------------------------------

CSV = b'text,label,n\n"A film, and dull",negative,1\nLovely.,positive,2\n"Two\nlines",positive,\n'
JSONL = b'{"text": "A film", "n": 1.10}\n{"text": "Dull", "n": [1, {"a": null}]}\n'
SUFFIXES = [".csv", ".tsv", ".json", ".jsonl", ".csv.gz", ".jsonl.gz", ".jsonl.zst"]
text_files = (
    damaged(CSV)
    | damaged(JSONL)
    | documents([{"text": "A film"}, {"text": "Dull"}])
    | st.lists(values.map(json.dumps), max_size=4).map(lambda lines: "\n".join(lines).encode())
    | st.sampled_from(DEEP).map(lambda text: b'{"text": ' + text.encode() + b"}")
)


@cache
def parquet() -> bytes:
    """A Parquet file with pandas' and datasets' metadata."""
    import pyarrow as pa

    index = {"kind": "range", "name": "i", "start": 0, "stop": 6, "step": 2}
    features = {"label": {"names": ["no", "yes"], "_type": "ClassLabel"}}
    table = pa.table({"text": ["a", "b", "c"], "label": [0, 1, 0], "x": [[1], [], None]})
    return in_parquet(
        table,
        {
            b"pandas": {"index_columns": [index], "columns": [], "column_indexes": []},
            b"huggingface": {"info": {"features": features}},
        },
    )


def in_parquet(table: Any, metadata: dict[bytes, Any]) -> bytes:
    """A table and JSON values of metadata as a file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in metadata.items()
    }
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(texts), sink)
    return bytes(sink.getvalue())


@st.composite
def parquets(draw: st.DrawFn) -> bytes:
    """Parquet files: damaged, or with other metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if draw(st.booleans()):
        return draw(damaged(parquet()))
    table = pq.read_table(pa.BufferReader(parquet()))
    metadata = table.schema.metadata.items()
    return in_parquet(
        table,
        {
            name: draw(changed(json.loads(content)) | st.sampled_from(DEEP))
            for name, content in metadata
        },
    )


@st.composite
def tables(draw: st.DrawFn) -> tuple[str, bytes]:
    """A suffix and the content of a file."""
    import pyarrow as pa

    if draw(st.integers(0, 4)) == 0:
        return ".parquet", draw(parquets())
    suffix, content = draw(st.sampled_from(SUFFIXES)), draw(text_files)
    if suffix.endswith(".gz"):
        content = gzip.compress(content)
    if suffix.endswith(".zst"):
        content = pa.compress(content, codec="zstd", asbytes=True)
    if suffix.endswith((".gz", ".zst")) and draw(st.integers(0, 2)) == 0:
        content = draw(damaged(content))
    return suffix, content
