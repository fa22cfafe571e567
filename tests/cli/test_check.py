"""`sentilora check`: every problem at once, and notes on settings without effect."""

import pytest
from commands import run

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
    for word in ("320 rows of embedded", "leakage", "label 'positive'", "truncated", "⟦", "memory",
                 "time", "none, the base is local", "cpu, computing in float32"):  # fmt: skip
        assert word in stdout, word
    assert "no --preset given, using tiny" in stderr and "✗" not in stdout


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
        "test data": Contains(f"{tmp_path} has no test data"),
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
    assert code == 3 and stderr.endswith("error: 11 problems, marked ✗ above\n")  # the first's code


def test_check_ends_with_the_code_of_what_is_wrong(toy_base, tmp_path):
    base = f"base.name={toy_base}"
    code, stdout, stderr = run("check", base, "training.optim=lomo", "training.report_to=neptune")
    assert code == 2 and "error: 2 problems, marked" in stderr
    for name, package in (("optim", "lomo"), ("report_to", "neptune")):
        assert f"training.{name}={package} is unavailable here" in problems(stdout)[name]
        assert "install the missing package, or choose another" in problems(stdout)[name]
    assert "--lomo" not in stdout and "'lomo_optim'" in problems(stdout)["optim"]
    code, stdout, stderr = run("check", f"base.name={tmp_path}", "prompt.template=x")
    assert code == 3 and list(problems(stdout)) == ["base", "prompt"]
    # A file that two settings name is one problem.
    code, stdout, _ = run("check", base, "data.train=none.csv", "data.test=none.csv")
    assert code == 3 and problems(stdout) == {"data": "there is no file or folder none.csv"}


def test_check_says_when_the_output_folder_is_in_use(toy_base, toy_run):
    code, stdout, _ = run("check", f"base.name={toy_base}", f"output_dir={toy_run}")
    line = f"! output              {toy_run} is in use; choose another --output-dir, "
    assert code == 0 and line in stdout


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
        assert findings["time"].text.startswith("100 steps take about 0 min")


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
        "training.warmup_steps=9", "--output-dir", tmp_path / "run",
    )  # fmt: skip
    notes = [line for line in stdout.splitlines() if line.startswith("!")]
    assert code == 0 and len(notes) >= 3
    for text in ("most texts are cut", "never reaches its peak", "still names the reviews"):
        assert any(text in line for line in notes), text
