"""The certificate: over its tolerance nothing is exported, and anybody can repeat it."""

import hashlib
import json
import os
import shutil

import pytest
from commands import failed, run
from safetensors.torch import load_file, save_file

import sentilora
from sentilora.exporting import certificate as certificates
from sentilora.exporting.certificate import LIMITS, Certificate, Figures
from sentilora.exporting.certified_rows import probabilities_of
from sentilora.folders.new_folder import new_folder


@pytest.fixture
def merged_copy(merged_export, tmp_path):
    return shutil.copytree(merged_export, tmp_path / "copy")


def test_it_has_the_figures_the_digests_and_the_versions(merged_export, toy_run):
    record = json.loads((merged_export / "parity.json").read_text())
    for name in ("rows", "label_flips", "max_probability_difference",
                 "mean_probability_difference", "tolerance"):  # fmt: skip
        assert isinstance(record[name], int | float), name
    assert record["tolerance"] == LIMITS["float32"] and record["label_flips"] == 0
    assert record["mean_probability_difference"] <= record["max_probability_difference"] < 1e-4
    assert (record["evaluation_rows"], record["evaluation_flips"]) == (16, 0)
    assert "0 among the 16 evaluation rows" in (merged_export / "README.md").read_text()
    assert {"model.safetensors", "prompt.json", "config.json"} <= set(record["sha256"])
    assert {"sentilora", "torch", "transformers"} <= set(record["versions"])
    weights = (toy_run / "adapter_model.safetensors").read_bytes()
    assert record["adapter_sha256"] == hashlib.sha256(weights).hexdigest()


def test_over_the_tolerance_nothing_is_left(toy_run, tmp_path, monkeypatch):
    """vLLM #47026: the same adapter agreed on 83 % of the answers elsewhere, and nobody knew."""
    monkeypatch.setattr(certificates, "probabilities_of", lambda rows: 1 - probabilities_of(rows))
    line = failed(1, "the export answers otherwise than the trained model: probabilities differ by "
                  "up to", "export", "merged", tmp_path / "out", "--adapter", toy_run)  # fmt: skip
    assert "in float16 at most 0.02 is allowed; choose a finer --dtype (float32), or" in line
    assert not list(tmp_path.iterdir())


def test_a_model_that_overflows_is_no_export(toy_run, tmp_path, monkeypatch):
    """float16 ends at 65,504, and some models' activations do not."""
    monkeypatch.setattr(
        "sentilora.exporting.own_runtime.InTransformers.log_probs",
        lambda self, ids, labels: [float("nan")] * len(labels),
    )
    failed(1, "gives no probability in 216 rows: its number format overflows; choose another "
           "--dtype", "export", "merged", tmp_path / "out", "--adapter", toy_run)  # fmt: skip
    assert not list(tmp_path.iterdir())


# --- verify ---------------------------------------------------------------------------------------


def test_verify_repeats_it_on_the_public_texts_alone(merged_export):
    code, stdout, stderr = run("verify", merged_export)
    assert code == 0, stderr
    assert "0 labels of 200 rows changed; up to 0.0001 is allowed" in stdout
    assert (
        "compared on the 200 public texts alone; with the trained adapter named, the 16" in stderr
    )


def test_verify_with_the_adapter_scores_every_row_again(merged_export, toy_run):
    certificate = sentilora.verify(merged_export, adapter=toy_run)
    assert certificate.rows == 216 and certificate.origins["evaluation"] == 16
    assert certificate.max_probability_difference == pytest.approx(
        Certificate.of(merged_export).max_probability_difference, abs=1e-6
    )


def test_verify_of_an_adapter_asks_where_its_base_is(adapter_export, toy_base):
    code, stdout, stderr = run("verify", adapter_export, "--base", toy_base)
    assert code == 0, stderr
    assert "adapter, float32" in stdout
    failed(3, "not reachable", "verify", adapter_export)


@pytest.mark.parametrize(
    "name", ["model.safetensors", "prompt.json", "parity_rows.jsonl", "chat_template.jinja"]
)
def test_verify_names_a_file_that_has_changed(name, merged_copy):
    path = merged_copy / name
    path.write_bytes(path.read_bytes() + b" ")
    failed(3, f"{path} is not what was certified; restore it", "verify", merged_copy)
    path.unlink()
    failed(3, f"{path} is missing; restore it", "verify", merged_copy)


@pytest.mark.parametrize("name", ["classifier.json", "probes.json", "chat_template.jinja"])
def test_verify_reads_every_file_that_an_adapter_answers_with(name, adapter_export, tmp_path):
    """A changed prompt or label in classifier.json passed: only the weights had a digest."""
    copy = shutil.copytree(adapter_export, tmp_path / "copy")
    (copy / name).write_bytes((copy / name).read_bytes() + b" ")
    failed(3, f"{copy / name} is not what was certified; restore it", "verify", copy)


def test_the_card_may_be_edited(merged_copy):
    (merged_copy / "README.md").write_text("# Mine\n")
    assert run("verify", merged_copy)[0] == 0


def test_a_number_format_that_no_export_has_is_damage(merged_copy):
    """It was a KeyError."""
    record = json.loads((merged_copy / "parity.json").read_text()) | {"form": "int4"}
    (merged_copy / "parity.json").write_text(json.dumps(record))
    failed(3, "parity.json is damaged: its 'form' is 'int4'", "verify", merged_copy)


def test_verify_takes_a_base_only_where_it_reads_one(merged_copy):
    """A base was ignored without a word."""
    failed(2, f"--base is where the base of an adapter is, and {merged_copy} (merged) holds its "
           "own; leave it out", "verify", merged_copy, "--base", "embedded")  # fmt: skip


def test_verify_finds_another_model_under_a_certificate(merged_copy):
    """Whoever changes the digests too is still found: the answers are others."""
    record = json.loads((merged_copy / "parity.json").read_text())
    file = merged_copy / "model.safetensors"
    weights = load_file(file)
    weights["lm_head.weight"] *= -1
    save_file(weights, file, {"format": "pt"})
    record["sha256"] = certificates.digests_of(merged_copy)
    (merged_copy / "parity.json").write_text(json.dumps(record))
    failed(1, "the export answers otherwise than the trained model", "verify", merged_copy)


def test_verify_refuses_what_is_no_export(merged_export, tmp_path, odd_run):
    failed(3, f"there is no folder {tmp_path / 'none'}", "verify", tmp_path / "none")
    failed(3, f"{tmp_path} has no parity.json; name a folder that", "verify", tmp_path)
    (tmp_path / "parity.json").write_text("[")
    failed(3, "parity.json is damaged: it is not JSON", "verify", tmp_path)
    failed(2, "was made from another adapter than", "verify", merged_export, "--adapter", odd_run)


def test_a_certificate_reads_no_file_outside_its_folder(merged_copy, tmp_path):
    (tmp_path / "secret").write_text("x")
    record = json.loads((merged_copy / "parity.json").read_text())
    record["sha256"] = {"../secret": "0" * 64}
    (merged_copy / "parity.json").write_text(json.dumps(record))
    failed(3, f"{merged_copy / 'secret'} is missing", "verify", merged_copy)


# --- the folder -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (lambda out: (out.mkdir(), (out / "x").write_text("")), "is in use; name a new folder, or "
         "empty this one"),
        (lambda out: out.write_text(""), "is not a folder; name a new folder"),
        (lambda out: out.symlink_to("nowhere"), "is not a folder; name a new folder"),
    ],
)  # fmt: skip
def test_what_is_there_is_never_overwritten(prepare, said, toy_run, tmp_path):
    out = tmp_path / "out"
    prepare(out)
    before = sorted(tmp_path.rglob("*"))
    failed(2, said, "export", "adapter", out, "--adapter", toy_run)
    assert sorted(tmp_path.rglob("*")) == before


def test_the_root_of_the_file_system_is_in_use():
    """It has no parent, which was a traceback."""
    failed(2, "/ is in use; name a new folder", "export", "adapter", "/")


def test_a_run_folder_is_in_use(toy_run):
    failed(2, "is in use", "export", "merged", toy_run, "--adapter", toy_run)


def test_a_folder_below_a_file_or_one_that_is_read_only_is_refused(tmp_path, monkeypatch, toy_run):
    (tmp_path / "file").write_text("")
    failed(2, "is not a folder; name a new folder elsewhere", "export", "adapter",
           tmp_path / "file/out", "--adapter", toy_run)  # fmt: skip
    monkeypatch.setattr(os, "access", lambda _, mode: mode != os.W_OK)  # root may write anywhere
    failed(2, "may not be written to; name a new folder elsewhere", "export", "adapter",
           tmp_path / "out", "--adapter", toy_run)  # fmt: skip


def test_an_empty_folder_is_filled(toy_run, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    assert sentilora.export("adapter", out, adapter=toy_run).kind == "adapter"
    assert (out / "parity.json").is_file()


def test_what_a_killed_export_left_is_removed_and_two_do_not_mix(tmp_path):
    aside = tmp_path / ".out-unfinished"
    (aside / "deep").mkdir(parents=True)
    (aside / "deep/old").write_text("")
    with new_folder(tmp_path / "out") as folder:
        assert folder == aside and [path.name for path in folder.iterdir()] == [".sentilora-claim"]
        with (
            pytest.raises(sentilora.errors.UsageError, match="wait until it ends, or name another"),
            new_folder(tmp_path / "out"),
        ):
            raise AssertionError("two exports write one folder")
        (folder / "new").write_text("")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["new"]


def test_a_full_disk_leaves_nothing(toy_run, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sentilora.exporting.certified_rows.Path.write_text", full)
    failed(1, "cannot read or write: [Errno 28] No space left", "export", "adapter",
           tmp_path / "out", "--adapter", toy_run)  # fmt: skip
    assert not list(tmp_path.iterdir())


# --- requests -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "said", "arguments"),
    [
        (2, "--dtype is q8_0, and merged has no such format; choose float16, bfloat16 or float32",
         ["merged", "--dtype", "q8_0"]),
        (2, "--dtype is float16, and adapter keeps the adapter's own; leave it out",
         ["adapter", "--dtype", "float16"]),
        (2, "--weights are those that an adapter is merged into", ["adapter", "--weights",
         "original"]),
        (2, "--converter is for gguf, and this export is merged; leave it out",
         ["merged", "--converter", "/none"]),
        (3, "there is no adapter folder", ["adapter", "--adapter", "/none"]),
        (3, "there is no model folder", ["merged", "--base", "/none"]),
    ],
)  # fmt: skip
def test_impossible_requests_end_in_one_line(code, said, arguments, tmp_path):
    kind, *options = arguments
    failed(code, said, "export", kind, tmp_path / "out", *options)
    assert not list(tmp_path.iterdir())


def test_a_plain_adapter_is_not_exported(toy_run, tmp_path):
    ignored = shutil.ignore_patterns("checkpoint-*", "classifier.json")
    plain = shutil.copytree(toy_run, tmp_path / "plain", ignore=ignored)
    failed(2, "has no classifier.json with its labels and its prompt", "export", "adapter",
           tmp_path / "out", "--adapter", plain)  # fmt: skip


def test_an_adapter_on_another_base_is_refused(toy_run, tmp_path):
    failed(2, "", "export", "merged", tmp_path / "out", "--adapter", toy_run, "--base", "embedded")


def test_rows_that_changed_since_training_are_not_compared(odd_run, tmp_path, capsys):
    source = odd_run.parent / "rows.jsonl"
    content = source.read_text(encoding="utf-8")
    source.write_text(content.replace("text 1", "TEXT 1"), encoding="utf-8")
    try:
        certificate = sentilora.export("adapter", tmp_path / "out", adapter=odd_run)
    finally:
        source.write_text(content, encoding="utf-8")
    assert certificate.rows == 200 and "evaluation" not in certificate.origins
    assert "compared on public texts only: the run's rows cannot be read" in capsys.readouterr().err


def test_the_limits_are_named_by_their_formats():
    assert LIMITS["float32"] < LIMITS["float16"] == LIMITS["f16"] < LIMITS["bfloat16"]
    assert LIMITS["f16"] < LIMITS["q8_0"] < LIMITS["q4_K_M"] < 0.5
    assert Figures(200, 0, 0.0, 0.0, 0).rows == 200
