"""What strangers may send, made by Hypothesis from valid input: no traceback, no hang, no write.

    python bench/fuzz.py [--inputs 12000] [--seed N] [--only tables,http]

Every input is refused with an error of ours, or accepted. Anything else is a fault: another
exception, more than SECONDS, more than MEGABYTES of memory, or a file that Python opens for writing
outside the folder of the example. tests/test_fuzz.py runs a few of each kind.
"""

import argparse
import contextlib
import gzip
import json
import os
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from fuzz_inputs import PRESETS, damaged, documents, prompt_parts, setting_lines, tables
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as with_seed
from hypothesis import strategies as st

from sentilora.config import load_config
from sentilora.data.streams import open_stream
from sentilora.errors import SentiloraError
from sentilora.folders.adapter_folder import AdapterFolder
from sentilora.folders.card import examples_of
from sentilora.folders.checkpoints import faults_of, last_checkpoint
from sentilora.folders.probes_file import ProbesFile
from sentilora.folders.run_folder import Choices, DataRecord, TrainingResult, read_metrics
from sentilora.prompt import Prompter, PromptFormat
from sentilora.shipped import shipped_adapter

SECONDS, MEGABYTES = 20, 500
outcomes: Counter[str] = Counter()

# --- what every input must keep ------------------------------------------------------------------

writable: list[str] = []


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    """Raise for a file that is opened to be written outside the folder of the example."""
    if not writable or event not in ("open", "os.mkdir", "os.rename", "os.remove"):
        return
    path, _, flags = (*arguments, None, None)[:3]
    is_reading = event == "open" and not (
        isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)
    )
    if is_reading or not isinstance(path, str | bytes | os.PathLike):
        return
    place = os.path.realpath(os.fsdecode(path))
    if not place.startswith((*writable, "/dev/")) and "__pycache__" not in place:
        raise RuntimeError(f"{event} of {place} outside the example's folder")


sys.addaudithook(watch)


@contextmanager
def example() -> Iterator[Path]:
    """A folder for one input; within the block only errors of ours are raised, and soon."""
    folder = Path(os.path.realpath(tempfile.mkdtemp(prefix="fuzz-")))
    started, before = time.monotonic(), peak_megabytes()
    writable.append(str(folder))
    try:
        try:
            yield folder
            outcomes["accepted"] += 1
        except SentiloraError as error:
            outcomes["refused"] += 1
            assert str(error).strip(), "an error without a message"
            assert len(str(error)) < 5000, f"an error of {len(str(error)):,} characters"
    finally:
        writable.pop()
        shutil.rmtree(folder)
    seconds = time.monotonic() - started
    assert seconds < SECONDS, f"{seconds:.1f} s"
    growth = peak_megabytes() - before
    assert growth < MEGABYTES, f"{growth:.0f} MB"


def peak_megabytes() -> float:
    """The most memory that this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# --- adapters ------------------------------------------------------------------------------------


def shipped(name: str) -> Any:
    """The content of a JSON file of the adapter that ships."""
    return json.loads((Path(shipped_adapter()) / name).read_text(encoding="utf-8"))


def with_file(folder: Path, name: str, content: bytes) -> Path:
    """The adapter that ships, with another content of one file, and without checksums."""
    for path in Path(shipped_adapter()).iterdir():
        if path.name in ("adapter_config.json", "classifier.json", "adapter_model.safetensors"):
            shutil.copy(path, folder)
    (folder / name).write_bytes(content)
    return folder


@given(documents(shipped("classifier.json")))
def classifier_json(content: bytes) -> None:
    """An adapter's `classifier.json`."""
    with example() as folder:
        record = AdapterFolder.open(with_file(folder, "classifier.json", content))
        record.base_to_load()


@cache
def tiny_base() -> Any:
    """A model with the names of the embedded base's layers, of almost no size."""
    import torch
    from transformers import AutoModelForCausalLM, MistralConfig

    config = MistralConfig(
        vocab_size=32, hidden_size=8, intermediate_size=8, num_hidden_layers=1, head_dim=4,
        num_attention_heads=2, num_key_value_heads=1, sliding_window=None,
    )  # fmt: skip
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config)


@cache
def tiny_adapter() -> tuple[dict[str, Any], bytes]:
    """(configuration, weights) of a LoRA adapter for it."""
    import copy

    from peft import LoraConfig, get_peft_model

    lora = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    with tempfile.TemporaryDirectory() as folder:
        get_peft_model(copy.deepcopy(tiny_base()), lora).save_pretrained(folder)
        config = json.loads(Path(folder, "adapter_config.json").read_text())
        return config, Path(folder, "adapter_model.safetensors").read_bytes()


def load_tiny(folder: Path, config: bytes, weights: bytes) -> None:
    """Load an adapter of these two files."""
    import copy

    from sentilora.models.adapters import load_adapter

    (folder / "adapter_config.json").write_bytes(config)
    (folder / "adapter_model.safetensors").write_bytes(weights)
    load_adapter(copy.deepcopy(tiny_base()), AdapterFolder.open(folder))


@given(documents(tiny_adapter()[0]))
def adapter_config_json(content: bytes) -> None:
    """An adapter's `adapter_config.json`, as far as its weights in a model."""
    with example() as folder:
        load_tiny(folder, content, tiny_adapter()[1])


def header_of(weights: bytes) -> Any:
    """The header of a safetensors file."""
    return json.loads(weights[8 : 8 + int.from_bytes(weights[:8], "little")])


def with_header(header: bytes, length: int | None) -> bytes:
    """The tiny adapter's weights under another header. length: what it says; None: the truth."""
    weights = tiny_adapter()[1]
    data = weights[8 + int.from_bytes(weights[:8], "little") :]
    return (len(header) if length is None else length).to_bytes(8, "little") + header + data


lengths = st.none() | st.integers(0, 2**64 - 1) | st.sampled_from([0, 2**27, 2**63, 2**64 - 1])


@given(
    st.builds(with_header, documents(header_of(tiny_adapter()[1])), lengths)
    | damaged(tiny_adapter()[1])
)
def safetensors_header(content: bytes) -> None:
    """An adapter's weights: header, length and bytes."""
    with example() as folder:
        load_tiny(folder, json.dumps(tiny_adapter()[0]).encode(), content)


@given(
    st.sampled_from(["probes.json", "checksums.json", "README.md", "trainer_state.json"]), st.data()
)
def other_records(name: str, data: st.DataObject) -> None:
    """The other files beside an adapter, and those of a run."""
    state = {"best_global_step": 2, "stateful_callbacks": {}, "log_history": []}
    sums = {"step": 2, "sha256": {"adapter_model.safetensors": "0" * 64, name: "0" * 64}}
    card = {"widget": [{"text": "A lovely film."}]}
    known = {"probes.json": shipped("probes.json"), "checksums.json": sums, "README.md": card}
    content = data.draw(documents(known.get(name, state)))
    records = [DataRecord, TrainingResult, Choices]
    kind = data.draw(st.sampled_from(records))
    with example() as folder:
        with_file(folder, name, b"---\n" + content + b"\n---\n" if name == "README.md" else content)
        checkpoint = folder / "checkpoint-2"
        checkpoint.mkdir()
        with_file(checkpoint, name, content)
        (folder / kind.FILE).write_bytes(content)
        (folder / "metrics.jsonl").write_bytes(content)
        for read in (ProbesFile.of, lambda place: examples_of(place, ()), read_metrics, kind.load):
            expect_ours(read, folder)
        faults_of(checkpoint)
        expect_ours(lambda place: last_checkpoint(place, 4, 0), folder)
        AdapterFolder.open(folder)


def expect_ours(function: Callable[[Path], object], folder: Path) -> None:
    """Call a function that may refuse."""
    try:
        function(folder)
    except SentiloraError:
        return


# --- settings and prompts ------------------------------------------------------------------------


@given(
    setting_lines("="),
    setting_lines(" = "),
    st.sampled_from(PRESETS) | st.sampled_from(PRESETS) | st.text(max_size=30),
)
def settings_and_overrides(overrides: list[str], lines: list[str], preset: str) -> None:
    """Overrides, a configuration file and the name of a preset."""
    with example() as folder:
        file = folder / "sentilora.toml"
        file.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
        config = load_config(preset, file=file, overrides=overrides)
        config.save(folder / "saved.toml")
        assert load_config(file=folder / "saved.toml") == config, "it is not read as it was saved"


@cache
def tokenizer() -> Any:
    """The tokenizer of the embedded base."""
    from sentilora.models.bases import load_tokenizer

    return load_tokenizer("embedded")


@given(prompt_parts(), st.lists(st.text(max_size=300), min_size=1, max_size=2))
def prompts(parts: tuple[str, str, tuple[str, ...], int], texts: list[str]) -> None:
    """Templates, instructions, labels and the texts that fill them."""
    with example():
        format = PromptFormat(*parts)
        prompter = Prompter(tokenizer(), format)
        for text in texts:
            record = {"text": text, **dict.fromkeys(format.columns, "x")}
            prompt = prompter.encode(format.read(record if format.columns else text))
            assert len(prompt.input_ids) <= format.max_length


# --- tables --------------------------------------------------------------------------------------


@given(tables(), st.sampled_from(["out.csv", "out.jsonl", "out.json.gz", "out.parquet"]))
def tables_of_rows(table: tuple[str, bytes], output: str) -> None:
    """CSV, TSV, JSON, JSONL and Parquet files, packed or not, read and written in pieces."""
    from sentilora.data.output import write_pieces
    from sentilora.stages.predict_file import encoding_of

    suffix, content = table
    with example() as folder:
        (folder / f"in{suffix}").write_bytes(content)
        stream = open_stream(str(folder / f"in{suffix}"), "test")
        encoding = encoding_of(stream, folder / output, ())
        pieces = [encoding.encode(piece) for piece in stream.tables()]
        if pieces:
            write_pieces(pieces[0].schema, pieces, folder / output)
        assert sum(map(len, pieces)) == stream.num_rows


# --- requests ------------------------------------------------------------------------------------

REQUESTS: dict[str, Any] = {
    "/v1/classify": {"input": ["A film.", "Dull."], "model": "films"},
    "/classify": {"text": "A film."},
    "/v1/decisions": {"model": "films", "input": "A film.", "decisions": [{"name": "a"}]},
    "/v1/systemone": {"input": "A film."},
    "/v1/explain": {"input": "A film."},
    "/predict": {"inputs": "A film."},
    "/invocations": {"inputs": "A film."},
    "/v2/models/films/infer": {
        "inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["A film."]}]
    },
}


@cache
def client() -> Any:
    """The application in this process, with a worker that answers without a model."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from servers import Fake

    return Fake(Path(shipped_adapter())).client


@given(st.sampled_from(sorted(REQUESTS)), st.data())
def http_bodies(path: str, data: st.DataObject) -> None:
    """Bodies of requests: changed, damaged, too deep, packed."""
    body = data.draw(documents(REQUESTS[path]))
    headers = {"Content-Type": "application/json"}
    if data.draw(st.integers(0, 5)) == 0:
        headers["Content-Encoding"] = data.draw(st.sampled_from(["gzip", "deflate", "zstd", "br"]))
        body = data.draw(st.just(gzip.compress(body)) | st.just(body))
    with example():
        answer = client().post(path, content=body, headers=headers)
        assert answer.status_code < 500, f"{path} {answer.status_code} {body!r} {headers}"
        answer.json()
        outcomes["refused" if answer.status_code >= 400 else "accepted"] += 1
        outcomes["accepted"] -= 1


TARGETS = {
    "classifier.json": classifier_json,
    "adapter_config.json": adapter_config_json,
    "safetensors": safetensors_header,
    "records": other_records,
    "settings": settings_and_overrides,
    "templates": prompts,
    "tables": tables_of_rows,
    "http": http_bodies,
}


def run(name: str, num_inputs: int, seed: int) -> str:
    """Try a target with this many inputs; a line about it. Raises what a fault raises."""
    target = settings(
        max_examples=num_inputs,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )(TARGETS[name])
    outcomes.clear()
    started = time.monotonic()
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        with_seed(seed)(target)()
    seconds = time.monotonic() - started
    return (
        f"{name}: {outcomes.total():,} inputs, {outcomes['refused']:,} refused, "
        f"{outcomes['accepted']:,} accepted, {seconds:.0f} s"
    )


def main() -> None:
    """Try every target; exit 1 if one has a fault."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--inputs", type=int, default=12_000, help="over all targets")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "big"))
    parser.add_argument("--only", default="", help="beginnings of the targets' names")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    faults = 0
    for name in TARGETS:
        if any(map(name.startswith, options.only.split(","))):
            try:
                print(run(name, options.inputs // len(TARGETS), options.seed), flush=True)
            except Exception as error:
                faults += 1
                print(f"{name}: FAULT {type(error).__name__}: {error}", flush=True)
                for note in getattr(error, "__notes__", ()):
                    print(f"  {note[:600]}")
    raise SystemExit(bool(faults))


if __name__ == "__main__":
    main()
