"""chat_format.py: a base's own chat format, token for token as transformers renders it."""

import json

import pytest
from commands import failed, run
from hypothesis import given
from test_template import MARKED, TEXTS, TOKENIZERS
from tokenizers import AddedToken

from sentilora.config import load_config
from sentilora.data.text import clean_text
from sentilora.errors import UsageError
from sentilora.prompt import TRUNCATIONS, Prompter, PromptFormat
from sentilora.stages.automatic import fit_data

# The kinds of chat templates: what they write around a message, and how an answer follows.
TEMPLATES = {
    "a system prompt of its own": (
        "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\nHelp.<|im_end|>\n' }}"
        "{% endif %}{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + "
        "'<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
        "{% endif %}"
    ),
    "a blank before the answer": (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + "
        "'[/INST]' }}{% else %}{{ ' ' + m.content | trim + eos_token }}{% endif %}{% endfor %}"
    ),
    "no blank before it": (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST]' + m.content + "
        "'[/INST]' }}{% else %}{{ m.content + eos_token }}{% endif %}{% endfor %}"
    ),
    "another name for the assistant, trimmed": (
        "{{ bos_token }}{% for m in messages %}{% set r = 'model' if m.role == 'assistant' else "
        "m.role %}{{ '<|im_start|>' + r + '\n' + m.content | trim + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>model\n' }}{% endif %}"
    ),
    "the date, and two line breaks": (
        "{{ bos_token }}<|im_start|>system\n\nToday: {{ strftime_now('%d %b %Y') }}\n\n<|im_end|>"
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n\n' + m.content | trim + "
        "'<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}"
        "{{ '<|im_start|>assistant\n\n' }}{% endif %}"
    ),
    "thoughts before the answer": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}<think>\n\n"
        "</think>\n\n{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt "
        "%}<|im_start|>assistant\n{% if enable_thinking is defined and not enable_thinking %}"
        "<think>\n\n</think>\n\n{% endif %}{% endif %}"
    ),
}  # fmt: skip
FORMAT = PromptFormat("chat", "Answer with {labels}.", max_length=4096)


def tokenizer_with(name, template):
    tokenizer = TOKENIZERS[name]()
    names = ("[INST]", "[/INST]")
    tokens = [AddedToken(name, special=True, normalized=False) for name in names]
    tokenizer.add_special_tokens({"additional_special_tokens": tokens})
    tokenizer.chat_template = TEMPLATES[template]
    return tokenizer


def rendered(tokenizer, text, label):
    """The tokens of question and answer, as transformers makes them."""
    messages = [
        {"role": "user", "content": f"Answer with positive or negative.\n\n{text}"},
        {"role": "assistant", "content": label},
    ]
    template = tokenizer.chat_template.replace("strftime_now('%d %b %Y')", "'26 Jul 2024'")
    return tokenizer.apply_chat_template(
        messages, chat_template=template, return_dict=False, enable_thinking=False
    )


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("name", TOKENIZERS)
def test_prompt_label_and_end_are_the_tokens_of_the_chat_template(name, template):
    """Instruct bases in their own format."""
    tokenizer = tokenizer_with(name, template)
    prompter = Prompter(tokenizer, FORMAT)
    for text in TEXTS:
        for label in prompter.format.labels:
            ids = prompter.encode_example(text, label).input_ids
            expected = rendered(tokenizer, text, label)
            if prompter.bos and expected[0] != tokenizer.bos_token_id:
                ids = ids[
                    1:
                ]  # this tokenizer begins every text with BOS, and the template with none
            assert ids == expected[: len(ids)]
            rest = "".join(tokenizer.convert_ids_to_tokens(expected[len(ids) :]))
            assert rest.strip("▁Ċ\n") == "", "what comes after the end of the answer"
    assert prompter.format.template != "chat" and "{text}" in prompter.format.template


def test_what_is_stored_makes_the_same_prompt_without_a_chat_template():
    tokenizer = tokenizer_with("byte level", "the date, and two line breaks")
    prompter = Prompter(tokenizer, FORMAT)
    assert "Today: 26 Jul 2024" in prompter.format.template
    stored = PromptFormat(**json.loads(json.dumps(prompter.format.to_dict())))
    tokenizer.chat_template = None
    again = Prompter(tokenizer, stored)
    assert again.label_ids == prompter.label_ids and again.format == prompter.format
    assert again.encode("Good.") == prompter.encode("Good.")


def test_an_answer_of_the_users_own_goes_before_the_templates():
    tokenizer = tokenizer_with("byte level", "a system prompt of its own")
    assert Prompter(tokenizer, FORMAT).format.answer == "{label}<|im_end|>"
    own = PromptFormat("chat", answer="{label}</s>")
    assert Prompter(tokenizer, own).format.answer == "{label}</s>"
    assert Prompter(tokenizer, own).label_ids[0][-1] == tokenizer.eos_token_id
    with pytest.raises(UsageError, match=r"prompt\.answer ends with '!', which is not a special"):
        Prompter(tokenizer, PromptFormat(answer="{label}!"))
    with pytest.raises(UsageError, match=r"prompt\.answer has '</s>' before the label, where it"):
        Prompter(tokenizer, PromptFormat(answer="</s>{label}"))
    with pytest.raises(UsageError, match=r"prompt\.answer is 'positive'; let it hold \{label\}"):
        PromptFormat(answer="positive")


def test_without_an_instruction_the_text_is_the_whole_message():
    tokenizer = tokenizer_with("byte level", "no blank before it")
    prompter = Prompter(tokenizer, PromptFormat("chat", ""))
    assert prompter.format.template == "<s>[INST]{text}[/INST]"
    columns = PromptFormat("chat", "{title}: {labels}?")
    assert columns.columns == ("title",)
    prompt = Prompter(tokenizer, columns).encode({"text": "Good.", "title": "[INST]"})
    assert prompt.string == "<s>[INST][INST]: positive or negative?\n\nGood.[/INST]"
    instructed = tokenizer.convert_tokens_to_ids("[INST]")
    assert prompt.input_ids.count(instructed) == 1


@pytest.fixture(scope="module")
def prompter():
    return Prompter(tokenizer_with("byte level", "a system prompt of its own"), FORMAT)


@given(MARKED)
def test_a_text_in_a_chat_never_adds_a_special_token(prompter, text):
    special = set(prompter.tokenizer.all_special_ids)
    empty = [i for i in prompter.encode_parts([]) if i in special]
    prompt = prompter.encode(text)
    assert [i for i in prompt.input_ids if i in special] == empty
    assert f"negative.\n\n{clean_text(text)}<|im_end|>\n<|im_start|>assistant\n" in prompt.string


@pytest.mark.parametrize("truncation", TRUNCATIONS)
def test_only_the_text_of_a_chat_is_cut(truncation):
    tokenizer = tokenizer_with("byte level", "a blank before the answer")
    format = PromptFormat("chat", "Answer with {labels}.", max_length=96, truncation=truncation)
    prompter = Prompter(tokenizer, format)
    prompt = prompter.encode(" ".join(f"w{n}<s>" for n in range(200)))
    before, after = "<s>[INST] Answer with positive or negative.\n\n", "[/INST]"
    assert prompt.truncated and 85 < len(prompt.input_ids) <= prompter.max_prompt_tokens
    assert prompt.string.startswith(before) and prompt.string.endswith(after)


@pytest.mark.parametrize(
    "template, problem",
    [
        (None, "the tokenizer of this base has no chat template; choose an instruct base, or"),
        ("{{ messages[0].text }}x", "shows a message 0 times; write prompt.template by hand"),
        ("{{ messages[0].content * 2 }}", "shows a message 2 times"),
        ("{{ '{title}' + messages[0].content }}", "writes {title}, which names a column"),
        ("{{ raise_exception('no user') }}", "cannot be rendered: no user"),
        ("{% for %}", "cannot be rendered: "),
    ],
)
def test_a_chat_template_that_cannot_be_used_is_refused(template, problem):
    tokenizer = tokenizer_with("byte level", "no blank before it")
    tokenizer.chat_template = template
    with pytest.raises(UsageError) as error:
        Prompter(tokenizer, FORMAT)
    assert problem in str(error.value)
    assert (error.value.setting, error.value.seen) == ("prompt.template", "chat")


SHORT = ["prompt.template=chat", "data.num_train=24", "data.num_evaluation=8",
         "training.max_steps=2", "training.eval_steps=2", "training.save_steps=2"]  # fmt: skip


def test_a_base_without_a_chat_template_ends_in_one_line(toy_base, tmp_path):
    error = "the tokenizer of this base has no chat template; choose an instruct base, or write"
    ask = [f"base.name={toy_base}", *SHORT, "--output-dir", tmp_path / "run"]
    failed(2, error, "train", "--preset", "tiny", *ask)
    code, stdout, _ = run("check", "--preset", "tiny", *ask)
    assert code == 2 and error in stdout


@pytest.fixture(scope="module")
def chat_base(toy_base, tmp_path_factory):
    """The toy base with a chat template, whose answers end with a token that is not EOS."""
    import shutil

    folder = tmp_path_factory.mktemp("chat") / "base"
    shutil.copytree(toy_base, folder)
    text = TEMPLATES["a blank before the answer"].replace("eos_token", "'<pad>'")
    (folder / "chat_template.jinja").write_text(text)
    return folder


def test_every_verb_takes_the_chat_format(chat_base, tmp_path):
    """Trained, reloaded, evaluated, explained and exported with what classifier.json stores."""
    out = tmp_path / "run"
    ask = [f"base.name={chat_base}", *SHORT, "--output-dir", out]
    code, stdout, stderr = run("check", "--preset", "tiny", *ask)
    assert code == 0, stdout + stderr
    assert "in the template: <s>" in stdout and "[INST]" in stdout
    code, _, stderr = run("train", "--preset", "tiny", *ask)
    assert code == 0, stderr
    record = json.loads((out / "classifier.json").read_text())
    assert record["prompt"]["template"].startswith("<s>[INST] {instruction}\n\n{text}[/INST]")
    assert record["prompt"]["answer"] == " {label}<pad>"
    assert {ids[-1] for ids in record["label_ids"]} == {0}
    (chat_base / "chat_template.jinja").unlink()  # nothing needs it from here on
    assert 'template = "chat"' in (out / "sentilora.toml").read_text()
    code, stdout, stderr = run("evaluate", "--adapter", out, "data.num_test=8", "--json")
    assert code == 0, stderr
    code, stdout, stderr = run("predict", "A lovely film.", "--adapter", out, "--explain")
    assert code == 0, stderr
    code, _, stderr = run("export", "adapter", tmp_path / "export", "--adapter", out)
    assert code == 0, stderr
    prompt = json.loads((tmp_path / "export/prompt.json").read_text())
    assert prompt["label_ids"] == record["label_ids"]
    assert prompt["example"]["prompt"].endswith("phone.[/INST]")


def test_own_data_keep_the_chat_format_and_get_a_neutral_instruction(tmp_path):
    rows = [f'{{"text": "A text, number {n}", "label": "{"ab"[n % 2]}"}}' for n in range(40)]
    (tmp_path / "mine.jsonl").write_text("\n".join(rows))
    source = {"data.train": str(tmp_path / "mine.jsonl")}
    for preset, template in (("qwen3-0.6b", "chat"), ("tiny", "### Instruction:\n")):
        config, notes = fit_data(load_config(preset, values=source), {})
        assert config.prompt.template.startswith(template)
        assert ("prompt.template" in notes) == (preset == "tiny")
        assert config.prompt.instruction.startswith("Classify the following text.")
