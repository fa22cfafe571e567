"""`sentilora check`: every problem at once, and notes on what would be in vain."""

from commands import run


def problems(stdout):
    """{name: text} of the lines of a check that are marked."""
    marked = [line[2:] for line in stdout.splitlines() if line.startswith("✗")]
    return {line[:20].strip(): line[20:] for line in marked}


class Contains(str):
    """Equal to every string that it is in."""

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


def test_check_lists_every_problem_it_finds(toy_base, tmp_path):
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
        "dtype": Contains("base.compute_dtype=float16 needs a GPU"),
        "optim": Contains("does not know; did you mean 'adamw_8bit'?"),
        "lr_scheduler_type": Contains("does not know; did you mean 'linear'?"),
        "report_to": Contains("does not know; did you mean 'wandb'?"),
        "lora": "lora.target_modules names 'nope', but no module of this base has that name; "
        "choose from its linear layers: q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, "
        "down_proj, lm_head",
        "attention": Contains("; set base.attn_implementation=eager (predict and evaluate: "),
    }
    assert code == 3 and stderr.endswith("error: 11 problems, marked ✗ above\n")  # the first's code


def test_check_ends_with_the_code_of_what_is_wrong(toy_base, tmp_path):
    base = f"base.name={toy_base}"
    code, stdout, stderr = run("check", base, "training.optim=lomo", "training.report_to=neptune")
    assert code == 2 and "error: 2 problems, marked" in stderr
    for name, package in (("optim", "lomo"), ("report_to", "neptune")):
        assert f"training.{name}={package} is unavailable here" in problems(stdout)[name]
        assert "install what is missing, or choose another" in problems(stdout)[name]
    code, stdout, stderr = run("check", f"base.name={tmp_path}", "prompt.template=x")
    assert code == 3 and list(problems(stdout)) == ["base", "prompt"]
    # What two settings name and is wrong once, is said once.
    code, stdout, _ = run("check", base, "data.train=none.csv", "data.test=none.csv")
    assert code == 3 and problems(stdout) == {"data": "there is no file or folder none.csv"}


def test_check_says_when_the_output_folder_is_in_use(toy_base, toy_run):
    code, stdout, _ = run("check", f"base.name={toy_base}", f"output_dir={toy_run}")
    assert code == 0 and f"! output              {toy_run} is in use; choose another" in stdout


def test_check_notes_what_train_would_do_in_vain(toy_base, tmp_path):
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
    for said in ("most texts are cut", "never gets to its height", "still names the reviews"):
        assert any(said in line for line in notes), said
