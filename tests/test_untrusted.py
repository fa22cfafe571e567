"""Folders and files from strangers: nothing of them runs, and each fault is one line.

Named tests are of faults that bench/fuzz.py or a look at what PEFT does with a configuration found.
"""

import ast
import gzip
import io
import json
import re
import shutil
import struct
import time
import zipfile
from pathlib import Path

import openpyxl
import pyarrow as pa
import pytest
import torch
from commands import failed, run
from safetensors.torch import load_file, save_file

import sentilora
from sentilora.bulk.standard_input import standard_input
from sentilora.data.streams import open_stream
from sentilora.errors import DataError, UsageError
from sentilora.folders.card import examples_of
from sentilora.folders.checkpoints import last_checkpoint, seal
from sentilora.folders.peft_config import may_hang

PACKAGE = Path(sentilora.__file__).parent
DEEP = "[" * 10_000 + "]" * 10_000
AUTO = {"AutoConfig", "AutoModelForCausalLM", "AutoTokenizer"}


@pytest.fixture
def adapter(toy_run, tmp_path):
    """A copy of an adapter, without checksums and probes."""
    ignore = shutil.ignore_patterns("checkpoint*", "checksums.json", "probes.json")
    return shutil.copytree(toy_run, tmp_path / "adapter", ignore=ignore)


def refused(said, folder):
    return failed(3, said, "predict", "x", "--adapter", folder)


# --- nothing runs


def test_nothing_is_unpickled_and_no_code_of_a_base_runs():
    """Every call that could run what a file holds, in the package's own source."""
    seen = dict.fromkeys(("torch.load", "np.load", "from_pretrained"), 0)
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [getattr(node, "module", None), *(alias.name for alias in node.names)]
                assert not {"pickle", "dill", "cloudpickle", "joblib", "shelve"} & set(names), path
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            options = {option.arg: ast.unparse(option.value) for option in node.keywords}
            assert name not in ("eval", "exec", "yaml.load", "pickle.load"), path
            if name == "torch.load":
                assert options.get("weights_only") == "True", path
            if name == "np.load":
                assert options.get("allow_pickle", "False") == "False", path
            if name.endswith(".from_pretrained") and name.partition(".")[0] in AUTO:
                is_off = options.get("trust_remote_code") == "False" or "where" in options.values()
                assert is_off, f"{path}: {ast.unparse(node)}"
                name = "from_pretrained"
            seen[name] = seen.get(name, 0) + 1
    assert seen["np.load"] == 1 and seen["torch.load"] == 0 and seen["from_pretrained"] >= 7, seen


def test_a_base_with_code_of_its_own_is_refused_and_nobody_is_asked(toy_base, tmp_path):
    """With `trust_remote_code` unset, transformers asks on a terminal whether to run the code."""
    base = shutil.copytree(toy_base, tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}
    config["model_type"] = "unheard-of"
    (base / "config.json").write_text(json.dumps(config))
    (base / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    said = failed(3, "needs code of its own, which is never run", "predict", "x", "--adapter",
                  make_plain(tmp_path, base), "--labels", "a,b", "--template", "{text}",
                  input="y\n")  # fmt: skip
    assert "trust_remote_code" not in said and not (tmp_path / "ran").exists()


def make_plain(folder, base):
    """An adapter of plain PEFT that names this base."""
    plain = folder / "plain"
    plain.mkdir()
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": str(base)}
    (plain / "adapter_config.json").write_text(json.dumps(config))
    save_file({"x": torch.ones(2)}, plain / "adapter_model.safetensors")
    return plain


def test_a_chat_template_of_a_stranger_stays_in_its_sandbox(toy_base, tmp_path):
    base = shutil.copytree(toy_base, tmp_path / "base")
    (base / "chat_template.jinja").write_text("{{ ''.__class__.__mro__ }}{{ messages }}")
    ask = ["--preset", "tiny", f"base.name={base}", "--output-dir", tmp_path / "run"]
    said = "the base's chat template cannot be rendered: access to attribute '__class__'"
    failed(2, said, "train", *ask, "prompt.template=chat")


def test_peft_imports_no_module_that_an_adapter_names(adapter, tmp_path, monkeypatch):
    """PEFT imports `megatron_core` of adapter_config.json, whatever module that is."""
    (tmp_path / "named_by_a_stranger.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    change(adapter / "adapter_config.json", megatron_config={"a": 1},
           megatron_core="named_by_a_stranger")  # fmt: skip
    refused("has a megatron_config", adapter)
    assert not (tmp_path / "ran").exists()


def change(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


# --- nothing hangs or fills the memory


@pytest.mark.parametrize("pattern", ["(.+)+x", "(a|a)*b", "((x+)y?)*z", ".*.*.*.*.*.*.*x"])
@pytest.mark.parametrize("place", ["target_modules", "rank_pattern"])
def test_a_regular_expression_that_may_never_end(adapter, pattern, place):
    value = pattern if place == "target_modules" else {pattern: 4}
    change(adapter / "adapter_config.json", **{place: value})
    started = time.monotonic()
    refused("has a regular expression that may never end", adapter)
    assert time.monotonic() - started < 20


@pytest.mark.parametrize(
    "pattern",
    [
        "q_proj",
        r".*\.(q|v)_proj$",
        r"model\.layers\.(\d+)\.self_attn\.(q_proj|v_proj)",
        r"(?:.*?(?:language|text).*?(?:self_attn|mlp).*?(?:q_proj|v_proj).*?)|(?:\bmodel\.[\d]{1,}\.)",
        "(",
    ],
)
def test_regular_expressions_in_use_are_read(pattern):
    assert not may_hang(pattern)


@pytest.mark.parametrize("values", [{"r": 10**9}, {"rank_pattern": {"q_proj": 10**8}}])
def test_a_rank_that_no_weight_has_is_not_allocated(adapter, values):
    change(adapter / "adapter_config.json", **values)
    refused("has no weight of rank 1", adapter)


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.int64])
def test_integers_are_no_weights(adapter, dtype):
    weights = adapter / "adapter_model.safetensors"
    tensors = {name: tensor.to(dtype) for name, tensor in load_file(weights).items()}
    save_file(tensors, weights, {"format": "pt"})
    refused(f"holds weights in {str(dtype)[6:]} (", adapter)


@pytest.mark.parametrize("length", [0, 2**27, 2**63, 2**64 - 1])
def test_a_header_of_another_length(adapter, length):
    weights = adapter / "adapter_model.safetensors"
    weights.write_bytes(length.to_bytes(8, "little") + weights.read_bytes()[8:])
    refused("adapter_model.safetensors is damaged: ", adapter)


@pytest.mark.parametrize("name", ["classifier.json", "adapter_config.json", "probes.json"])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (DEEP, "is damaged: it "),
        ('{"a":' * 10_000 + "1" + "}" * 10_000, "is damaged: it "),
        ('{"a": "' + "x" * 10**8 + '"}', "is damaged: it has 95 MiB, and 16 MiB is the most"),
    ],
    ids=["deep list", "deep object", "100 MB"],
)
def test_json_that_is_too_deep_or_too_long(adapter, name, content, reason):
    (adapter / name).write_text(content)
    refused(reason, adapter)


def test_probes_without_end_are_not_scored(adapter, toy_run):
    probes = json.loads((toy_run / "probes.json").read_text())
    count = 2000 // len(probes["texts"])
    probes |= {name: probes[name] * count for name in ("texts", "log_probs")}
    (adapter / "probes.json").write_text(json.dumps(probes))
    refused("probes.json is damaged: its 'texts' is ", adapter)


def test_a_card_that_grows_when_it_is_read(tmp_path):
    """A list of lists of the same list: a kilobyte of YAML, a gigabyte as a string."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    card = "\n".join(["---", *lines, "widget:", "- text: *a8", "- text: A film.", "---"])
    (tmp_path / "README.md").write_text(card)
    assert examples_of(tmp_path, ()) == ["A film."]


def spreadsheet(sheet=lambda xml: xml):
    """The content of an .xlsx file of some texts. sheet: what becomes of the XML of its sheet."""
    book, made, changed = openpyxl.Workbook(), io.BytesIO(), io.BytesIO()
    for text in ("text", *(f"A film {n}." for n in range(50))):
        book.active.append([text])
    book.save(made)
    with zipfile.ZipFile(made) as old, zipfile.ZipFile(changed, "w", compresslevel=1) as new:
        for name in old.namelist():
            xml = old.read(name)
            xml = sheet(xml) if name.startswith("xl/worksheets/") else xml
            new.writestr(name, xml, zipfile.ZIP_DEFLATED)
    return changed.getvalue()


def blown_up(xml):
    return xml.replace(b"<sheetData>", b"<sheetData>" + b" " * 2**28)


@pytest.mark.parametrize("suffix", [".csv.gz", ".jsonl.gz", ".json.gz", ".csv.zst", ".xlsx"])
def test_a_packed_file_that_unpacks_to_far_more(tmp_path, suffix):
    path = tmp_path / f"rows{suffix}"
    content = b'"' + bytes(2**28)
    match suffix.rpartition(".")[2]:
        case "xlsx":
            packed = spreadsheet(blown_up)
        case "zst":
            packed = pa.compress(content, codec="zstd", asbytes=True)
        case _:
            packed = gzip.compress(content, 1)
    path.write_bytes(packed)
    before = pa.total_allocated_bytes()
    said = failed(3, "it unpacks to more than ", "predict", "--input", path, "--output",
                  tmp_path / "out.csv")  # fmt: skip
    assert "unpack it yourself if that is right" in said
    assert pa.total_allocated_bytes() - before < 2**24


def test_a_spreadsheet_that_understates_its_size(tmp_path):
    """Python's zipfile reads no more than the directory says, and then the checksum is wrong."""
    content = spreadsheet(blown_up)
    with zipfile.ZipFile(io.BytesIO(content)) as parts:
        size = parts.getinfo("xl/worksheets/sheet1.xml").file_size
    told = struct.pack("<I", size), struct.pack("<I", 2**20)
    assert content.count(told[0]) == 2
    (tmp_path / "rows.xlsx").write_bytes(content.replace(*told))
    with pytest.raises(DataError, match=r"cannot read .*Bad CRC-32"):
        open_stream(str(tmp_path / "rows.xlsx"), "test")


def test_a_spreadsheet_whose_sheet_is_damaged(tmp_path):
    """The sheet is parsed after the workbook is open; that was a traceback."""
    (tmp_path / "rows.xlsx").write_bytes(spreadsheet(lambda xml: xml[: len(xml) // 2]))
    with pytest.raises(DataError, match="cannot read"):
        open_stream(str(tmp_path / "rows.xlsx"), "test")


def test_a_packed_file_of_ordinary_text_is_read(tmp_path):
    path = tmp_path / "rows.csv.gz"
    path.write_bytes(gzip.compress(b"text\n" + b"A film that is long.\n" * 10_000))
    assert open_stream(str(path), "test").num_rows == 10_000


@pytest.mark.parametrize("place", [12, 40])
def test_a_packed_file_that_is_damaged_within(tmp_path, place):
    """zlib's error has no base but Exception."""
    content = bytearray(gzip.compress("\n".join(["text", *map(str, range(999))]).encode()))
    content[place : place + 8] = b"\xff" * 8
    (tmp_path / "rows.csv.gz").write_bytes(content)
    with pytest.raises(DataError, match="cannot read"):
        open_stream(str(tmp_path / "rows.csv.gz"), "test")


def test_an_override_that_is_too_deep():
    with pytest.raises(UsageError, match=r"training\.seed is '\[\["):
        sentilora.load_config("tiny", overrides=[f"training.seed={DEEP}"])


def test_a_configuration_or_a_suite_that_is_too_deep(tmp_path, adapter):
    path = tmp_path / "deep.toml"
    path.write_text(f"training = {DEEP}")
    failed(2, "cannot read the configuration", "check", "--config", path)
    failed(3, "cannot read the suite", "evaluate", "--adapter", adapter, "--suite-file", path)


def test_a_line_on_stdin_that_is_too_deep_is_a_text(monkeypatch):
    for line in (DEEP, '{"a":' * 10_000):
        stream = io.TextIOWrapper(io.BytesIO(line.encode()))
        monkeypatch.setattr("sys.stdin", stream)
        with standard_input("text") as path:
            assert json.loads(path.read_text()) == {"text": line}


# --- nothing leads out of a folder


@pytest.mark.parametrize("name", ["../../etc/passwd", "/dev/zero", "a/b", ".."])
def test_checksums_name_files_beside_them(adapter, toy_run, name):
    """A digest of /dev/zero would never end."""
    checksums = json.loads((toy_run / "checksums.json").read_text())
    checksums["sha256"][name] = "0" * 64
    (adapter / "checksums.json").write_text(json.dumps(checksums))
    refused("is not the name of a file in its folder", adapter)


def test_a_base_whose_index_names_files_elsewhere(toy_base, tmp_path):
    base = shutil.copytree(toy_base, tmp_path / "base")
    (base / "model.safetensors").rename(tmp_path / "elsewhere.safetensors")
    index = {"metadata": {}, "weight_map": {"lm_head.weight": "../elsewhere.safetensors"}}
    (base / "model.safetensors.index.json").write_text(json.dumps(index))
    failed(3, "names '../elsewhere.safetensors', which is not in its folder", "train",
           f"base.name={base}", "--output-dir", tmp_path / "run")  # fmt: skip


def test_a_data_set_whose_state_names_files_elsewhere(tmp_path):
    import datasets

    rows = datasets.Dataset.from_dict({"text": ["a", "b"], "label": ["x", "y"]})
    rows.save_to_disk(tmp_path / "set")
    path = tmp_path / "set" / "state.json"
    state = json.loads(path.read_text())
    (tmp_path / "set" / state["_data_files"][0]["filename"]).rename(tmp_path / "else.arrow")
    change(path, _data_files=[{"filename": "../else.arrow"}])
    with pytest.raises(DataError, match="is not in its folder"):
        open_stream(str(tmp_path / "set"), "train")


def test_a_checkpoint_of_a_stranger_with_another_state(toy_run, tmp_path):
    """Sealed, so that every digest is right; then the state was read without a check."""
    for state in ({}, [], {"stateful_callbacks": 3}, {"stateful_callbacks": {},
                                                      "best_global_step": "../x"}):  # fmt: skip
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        checkpoint = shutil.copytree(toy_run / "checkpoint-2", tmp_path / "run" / "checkpoint-2")
        (checkpoint / "trainer_state.json").write_text(json.dumps(state))
        seal(checkpoint, 2)
        with pytest.raises(DataError, match="is not what transformers writes"):
            last_checkpoint(tmp_path / "run", 4, 0)


def test_no_control_character_of_a_stranger_reaches_the_terminal(adapter):
    r"""\x1b[2J clears the screen, and worse can be done."""
    change(adapter / "adapter_config.json", peft_type="\x1b[2J\x1b]0;x\x07")
    _, stdout, stderr = run("predict", "x", "--adapter", adapter)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", stdout + stderr)
