"""`sentilora check`: every problem at once, and notes on settings without effect."""

import pytest
from commands import failed, run

from sentilora.config import load_config
from sentilora.engine import memory
from sentilora.engine.memory import GpuMemory
from sentilora.stages import check as stage
from sentilora.training import estimate


def problems(stdout):
    """{name: text} of the lines of a check that are marked ✗."""
    marked = [line[2:] for line in stdout.splitlines() if line.startswith("✗")]
    return {line[:20].strip(): line[20:] for line in marked}


class Contains(str):
    """Equal to every string that contains it."""

    def __eq__(self, other):
        return str(self) in other

    __hash__ = None


def test_check_looks_at_everything(toy_base):
    code, stdout, stderr = run("check", f"base.name={toy_base}")
    assert code == 0, stdout + stderr
    for word in ("240 rows of embedded", "leakage", "label 'positive'", "truncated", "⟦", "memory",
                 "time", "none, the base is local", "cpu, computing in float32"):  # fmt: skip
        assert word in stdout, word
    assert "no --preset given, using tiny" in stderr and "✗" not in stdout


@pytest.mark.parametrize(
    "written",
    ["<|im_start|>", "<｜User｜>", "[INST]", "[/INST]", "<<SYS>>", "<bos>", "<start_of_turn>"],
)
def test_check_names_special_tokens_that_the_base_lacks(written, toy_base):
    """They were split into characters without a word."""
    base, tail = f"base.name={toy_base}", "\n{text}\nAnswer:\n"
    code, stdout, _ = run("check", base, f"prompt.template=<s>{written}{written}{tail}")
    [line] = [x for x in stdout.splitlines() if "special tokens" in x and "not a special" in x]
    assert code == 0 and line.startswith("!") and line.count(written) == 1
    assert "which reads it as plain text" in " ".join(stdout.split())


def test_train_names_special_tokens_that_the_base_lacks(toy_base, tmp_path):
    steps = [f"training.{name}=1" for name in ("max_steps", "eval_steps", "save_steps")]
    code, _, stderr = run(
        "train", f"base.name={toy_base}", f"output_dir={tmp_path / 'run'}", *steps,
        "data.num_train=8", "data.num_evaluation=4",
        "prompt.template=<|im_start|>user\n{text}<|im_end|>\n",
    )  # fmt: skip
    assert code == 0, stderr
    assert "warning: <|im_start|>, <|im_end|> in the prompt are not special tokens" in stderr


def test_what_only_resembles_special_tokens_is_not_warned_about(toy_base):
    template = "<s><review>[1] a <b> | c |> {text}</review></s>\n[Answer]:\n"
    _, stdout, _ = run("check", f"base.name={toy_base}", f"prompt.template={template}")
    assert "in the template: <s>, </s>" in stdout and "not a special" not in stdout


def test_check_lists_every_problem(toy_base, tmp_path):
    code, stdout, stderr = run(
        "check", f"base.name={toy_base}", "data.train=none.csv", "data.evaluation=never.csv",
        f"data.test={tmp_path}", "training.save_steps=7", "prompt.max_length=9",
        "training.optim=adamw_9bit", "training.lr_scheduler_type=linar", "training.report_to=wand",
        'lora.target_modules=["q_proj", "nope"]', "base.attn_implementation=foo",
        "base.compute_dtype=float16", "base.device=cpu",
    )  # fmt: skip
    assert problems(stdout) == {
        "data": "there is no file or folder none.csv",
        "evaluation data": "there is no file or folder never.csv",
        "steps": Contains("training.save_steps=7 is not a multiple of training.eval_steps=50"),
        "prompt": Contains("prompt.max_length is 9, but template, label and EOS alone need"),
        "dtype": Contains("compute_dtype=float16 needs a GPU"),
        "optim": Contains("does not know; did you mean 'adamw_8bit'?"),
        "lr_scheduler_type": Contains("does not know; did you mean 'linear'?"),
        "report_to": Contains("does not know; did you mean 'wandb'?"),
        "lora": "lora.target_modules names 'nope', but no module of this base has that name; "
        "choose from its linear layers: q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, "
        "down_proj, lm_head",
        "attention": Contains("; set base.attn_implementation=eager"),
    }
    assert code == 3 and stderr.endswith("error: 10 problems, marked ✗ above\n")  # the first's code
    assert f"! test data           {tmp_path} has no test data" in stdout


def test_check_ends_with_the_code_of_what_is_wrong(toy_base, tmp_path):
    base = f"base.name={toy_base}"
    code, stdout, stderr = run("check", base, "training.optim=lomo", "training.report_to=neptune")
    assert code == 2 and "error: 2 problems, marked" in stderr
    for name, package in (("optim", "lomo"), ("report_to", "neptune")):
        assert f"training.{name}={package} is unavailable here" in problems(stdout)[name]
        assert "install the missing package, or choose another" in problems(stdout)[name]
    assert "--lomo" not in stdout and "'lomo_optim'" in problems(stdout)["optim"]
    code, stdout, stderr = run("check", f"base.name={tmp_path}", "prompt.template=x")
    assert code == 2 and list(problems(stdout)) == ["prompt", "base"]
    # A file that two settings name is one problem.
    code, stdout, _ = run("check", base, "data.train=none.csv", "data.test=none.csv")
    assert code == 3 and problems(stdout) == {"data": "there is no file or folder none.csv"}


def test_check_refuses_an_output_folder_in_use_as_train_does(toy_base, toy_run):
    code, stdout, _ = run("check", f"base.name={toy_base}", f"output_dir={toy_run}")
    line = f"✗ output              {toy_run} holds a finished run; choose another --output-dir, "
    assert code == 2 and line in stdout


FAULTS = {  # in the order in which `train` meets them
    "prompt": ["prompt.template=x"],
    "device": ["base.device=cuda"],
    "base": ["base.name=./nowhere"],
    "output": ["--output-dir", "{in_use}"],
    "data": ["data.train=none.csv"],
    "steps": ["training.save_steps=7"],
    "optim": ["training.optim=lomo"],
    "engine": ["base.attn_implementation=flash_attention_2"],
    "dtype": ["base.compute_dtype=float16"],
    "tokens": ["prompt.max_length=9"],
    "lora": ['lora.target_modules=["nope"]'],
}


@pytest.mark.parametrize("first", range(len(FAULTS)))
def test_check_and_train_end_with_the_same_fault(first, toy_base, toy_run, tmp_path, monkeypatch):
    """With any number of faults: `train` says what `check` marks first, and both end alike."""
    monkeypatch.setattr("sentilora.models.device.cuda_driver_present", lambda: False)
    faults = list(FAULTS.values())[first:]
    ask = [item.format(in_use=toy_run) for fault in faults for item in fault]
    if not any(item.startswith("base.name=") for item in ask):
        ask.append(f"base.name={toy_base}")
    if "--output-dir" not in ask:
        ask += ["--output-dir", str(tmp_path / "run")]
    code, stdout, _ = run("check", *ask)
    message = next(iter(problems(stdout).values()))
    trained, _, stderr = run("train", *ask)
    assert (trained, stderr.splitlines()[-1]) == (code, f"error: {message}")
    assert len(problems(stdout)) >= len(faults) - 4  # what follows from another is not marked


def test_a_label_map_that_leads_to_no_label_is_refused(toy_base, tmp_path):
    """A slip in it was not noticed where no row needed the entry, and else blamed on the data."""
    path = tmp_path / "rows.csv"
    path.write_text("text,label\n" + "".join(f"Film {i}.,{'yn'[i % 2]}\n" for i in range(40)))
    ask = [f"base.name={toy_base}", f"data.train={path}", f"data.test={path}", "data.num_train=20",
           "data.num_evaluation=10", "--output-dir", tmp_path / "run"]  # fmt: skip
    slip = [*ask, "--labels", "positive,negative",
            'data.label_map={y = "positiv", n = "negative"}']  # fmt: skip
    said = ("data.label_map leads 'y' to 'positiv', which is not one of the labels (positive, "
            "negative); did you mean 'positive'?")  # fmt: skip
    code, stdout, _ = run("check", *slip)
    assert code == 2 and problems(stdout) == {"data": said}
    failed(2, said, "train", *slip)
    # An entry that no row needs, also one that is added to the default map.
    failed(2, "leads 'z' to 'good'", "train", *ask, 'data.label_map={y="positive", z="good"}')
    failed(2, "leads 'z' to 'good'", "evaluate", f"data.test={path}", "data.label_map.z=good")
    # The default map's own entries may lead nowhere: most prompts have other labels.
    other = ['prompt.labels=["y", "n"]', "data.label_map.z=y"]
    assert run("check", *ask, *other)[0] == 0


def test_test_rows_are_a_problem_only_if_training_evaluates_on_them(toy_base, tmp_path):
    """`train` never reads them otherwise."""
    ask = [f"base.name={toy_base}", "data.test=none.csv", "--output-dir", tmp_path / "run"]
    code, stdout, _ = run("check", *ask)
    assert code == 0 and "! test data           there is no file or folder none.csv" in stdout
    code, stdout, _ = run("check", *ask, "data.evaluation=test")
    assert code == 3 and problems(stdout) == {"data": "there is no file or folder none.csv"}


@pytest.fixture
def gpu(monkeypatch):
    """A check as on a GPU: call it with the bytes that are free."""
    monkeypatch.setattr(stage, "choose_device", lambda device: "cuda")
    monkeypatch.setattr(estimate, "place_of_process", lambda device: f"{device}:0")
    monkeypatch.setattr(estimate, "_load_cublas", lambda dtype: None)
    monkeypatch.setattr(estimate, "_matmul_rate", lambda device, dtype: 1e14)

    def set_free(num_bytes):
        monkeypatch.setattr(memory, "gpu_memory", lambda device: GpuMemory(2**36, num_bytes))

    return set_free


@pytest.mark.parametrize(
    ("engine", "promise", "refusal"),
    [
        ("auto", "GiB free: passes of up to", ("too little for one text of", "use a smaller base")),
        ("reference", "activations of", ("GiB are free", "per_device_train_batch_size (and raise")),
    ],
)
def test_check_refuses_what_does_not_fit_on_a_gpu(engine, promise, refusal, toy_base, gpu):
    overrides = [f"engine={engine}", "base.compute_dtype=bfloat16"]
    config = load_config("tiny", overrides=overrides, values={"base.name": str(toy_base)})
    for free, level, code, texts in ((2**34, "ok", 0, [promise]), (2**20, "problem", 2, refusal)):
        gpu(free)
        findings = {finding.name: finding for finding in stage.check(config)}
        finding = findings["memory"]
        assert (finding.level, finding.exit_code) == (level, code)
        assert finding.text.count("weights 0.00 GiB, adapter and optimizer 0.00") == 1
        assert all(text in finding.text for text in texts), finding.text
        assert findings["device"].text.startswith("cuda, computing in bfloat16")
        assert findings["engine"].text.startswith("fast" if engine == "auto" else "plain path, as")
        assert findings["time"].text.startswith("45 steps take less than a minute, without")


def test_check_estimates_the_plain_path_for_a_base_that_the_engine_does_not_support(
    toy_base, gpu, monkeypatch
):
    monkeypatch.setattr(stage, "why_not_fast", lambda model: "its norm is odd")
    gpu(2**34)
    overrides = ["base.compute_dtype=bfloat16"]
    config = load_config("tiny", overrides=overrides, values={"base.name": str(toy_base)})
    findings = {finding.name: finding for finding in stage.check(config)}
    assert findings["engine"].level == "note"
    assert findings["engine"].text == "plain path, several times slower: its norm is odd"
    assert "activations of" in findings["memory"].text


def test_check_notes_settings_without_effect(toy_base, tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("text,label\n" + "".join(
        f"{'word ' * 60}{i},{'positive' if i % 2 else 'negative'}\n" for i in range(40)
    ))  # fmt: skip
    code, stdout, _ = run(
        "check", f"base.name={toy_base}", f"data.train={path}", "data.num_train=20",
        "data.num_evaluation=10", "prompt.max_length=120", "training.max_steps=4",
        "training.warmup_steps=9", "data.test=embedded", "--output-dir", tmp_path / "run",
    )  # fmt: skip
    notes = [line for line in stdout.splitlines() if line.startswith("!")]
    assert code == 0 and len(notes) >= 3
    for text in ("most texts are cut", "never reaches its peak", "data.test names the reviews"):
        assert any(text in line for line in notes), text
