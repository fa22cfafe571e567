"""Training on shares of labels: its loss and gradients against plain rows, its runs from the files.

Training on a larger model's probabilities is asked for in trl #1975 and txtai #1103, on annotators'
disagreement in minojev #5.
"""

import json
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from small_runs import interrupt_in_step

from sentilora.config import load_config
from sentilora.engine.swap import install
from sentilora.errors import Interrupted, UsageError
from sentilora.folders.classifier_file import BaseReference
from sentilora.models.adapters import attach_adapter
from sentilora.models.bases import load_base
from sentilora.models.runtime import Runtime
from sentilora.prompt import Prompter, PromptFormat
from sentilora.scoring.label_loss import SoftExample
from sentilora.scoring.labels import LabelScorer
from sentilora.stages.automatic import fit
from sentilora.stages.evaluate import evaluate
from sentilora.stages.train import train
from sentilora.training import losses
from sentilora.training.losses import ShareLoss

TEXTS = ["Good, really good.", "She said no, then yes, and it was dull for all that.", "So so.",
         "A film with a long beginning and a short end, or the other way round."]  # fmt: skip
WORDS = {
    2: ("positive", "negative"),
    # Labels that begin alike, one of them the beginning of another.
    5: ("card", "card lost", "card lost abroad", "top up", "card payment refused"),
}


def tiny_model(toy_base):
    base = load_base(BaseReference(str(toy_base), quantization="none"), Runtime(device="cpu"))
    torch.manual_seed(3)
    model = attach_adapter(
        base.model, r=4, lora_alpha=8, lora_dropout=0.0, bias="none",
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj"],
    )  # fmt: skip
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return base, model


def examples_of(prompter, num_labels):
    generator = np.random.default_rng(0)
    shares = generator.dirichlet(np.ones(num_labels), len(TEXTS))
    shares[0] = np.eye(num_labels)[1]  # one that is sure
    weights = [1.0, 2.5, 0.5, 1.0]
    return [
        SoftExample(prompter.encode(text).input_ids, tuple(row), False, weight)
        for text, row, weight in zip(TEXTS, shares.tolist(), weights, strict=True)
    ]


def reference_loss(model, prompter, examples):
    """The loss as its formula says it: a forward pass for each prompt with each label."""
    total = torch.zeros(())
    for example in examples:
        scores = []
        for ids in prompter.label_ids:
            logits = model(input_ids=torch.tensor([example.input_ids + ids[:-1]])).logits[0]
            log_probs = logits[len(example.input_ids) - 1 :].log_softmax(-1)
            scores.append(sum(log_probs[i, token] for i, token in enumerate(ids)))
        log_q = torch.stack(scores).log_softmax(-1)
        total = total - example.weight * (torch.tensor(example.shares) * log_q).sum()
    return total


def gradients(model):
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}
    model.zero_grad()
    assert len(found) == 2 * 6 * 2
    return found


@pytest.mark.parametrize("num_labels", [2, 5])
@pytest.mark.parametrize("path", ["packed", "branches", "rows"])
def test_loss_and_every_gradient_equal_a_pass_for_each_label(toy_base, num_labels, path):
    base, model = tiny_model(toy_base)
    prompter = Prompter(base.tokenizer, PromptFormat(labels=WORDS[num_labels]))
    examples = examples_of(prompter, num_labels)
    model.train()
    expected = reference_loss(model, prompter, examples)
    expected.backward()
    theirs = gradients(model)
    engine = install(model) if path == "packed" else None
    scorer = LabelScorer(model, prompter.label_ids, base.pad_token_id, engine=engine)
    loss = ShareLoss(scorer)
    if path == "packed":
        assert engine is not None
        engine.refresh()
        pass_, *answers = loss.pack(engine, examples, "cpu", 0, round_up=False)
        mine = loss.packed(model, pass_, *answers)
        assert pass_.num_tokens == sum(map(loss.num_tokens, examples)) - 3 * shared(examples)
    else:
        scorer._branches_work = path == "branches"
        mine = loss.plain(model, examples)
    assert model.training
    mine.backward()
    np.testing.assert_allclose(mine.item(), expected.item(), rtol=1e-5)
    ours = gradients(model)
    for name, tensor in theirs.items():
        assert torch.linalg.norm(ours[name] - tensor) <= 2e-5 * torch.linalg.norm(tensor), name


def shared(examples):
    rows = [example.input_ids for example in examples]
    return next(i for i, tokens in enumerate(zip(*rows, strict=False)) if len(set(tokens)) > 1)


def test_a_pass_rounded_up_has_the_same_loss(toy_base):
    """As a GPU captures it: spare tokens and answers come after those of the prompts."""
    base, model = tiny_model(toy_base)
    prompter = Prompter(base.tokenizer, PromptFormat(labels=WORDS[5]))
    examples = examples_of(prompter, 5)
    engine = install(model)
    loss = ShareLoss(LabelScorer(model, prompter.label_ids, base.pad_token_id, engine=engine))
    engine.refresh()
    values = []
    for round_up in (False, True):
        pass_, *answers = loss.pack(engine, examples, "cpu", 0, round_up)
        values.append(loss.packed(model, pass_, *answers).item())
    assert pass_.num_tokens % 64 == 0
    np.testing.assert_allclose(values[1], values[0], rtol=1e-6)


def test_passes_keep_to_their_tokens_and_logits(toy_base, monkeypatch):
    base, model = tiny_model(toy_base)
    prompter = Prompter(base.tokenizer, PromptFormat(labels=WORDS[5]))
    examples = examples_of(prompter, 5) * 4
    vocabulary = model.config.vocab_size
    scorer = LabelScorer(model, prompter.label_ids, base.pad_token_id)
    rows = ShareLoss(scorer).labels.num_rows
    assert sorted(chain(*ShareLoss(scorer).plan(examples, 10**6))) == list(range(16))
    assert len(ShareLoss(scorer).plan(examples, 10**6)) == 1
    monkeypatch.setattr(losses, "MAX_LOGITS", 3 * rows * vocabulary + 1)
    passes = ShareLoss(scorer).plan(examples, 10**6)
    assert max(map(len, passes)) == 3 and sorted(chain(*passes)) == list(range(16))


# --- runs ----------------------------------------------------------------------------------------


def source(folder, sure=0.9):
    """A file of 60 texts whose two labels are shares, told apart by a word."""
    lines = ["text,probability_good,probability_bad"]
    for i in range(60):
        word, share = ("lovely", sure) if i % 2 else ("dull", 1 - sure)
        lines.append(f"a {word} film number {i},{share},{1 - share}")
    (folder / "rows.csv").write_text("\n".join(lines))
    return str(folder / "rows.csv")


def settings(base, folder, data, **values):
    quick = {
        "training.max_steps": 6, "training.eval_steps": 2, "training.save_steps": 2,
        "training.logging_steps": 1, "training.optim": "adamw_torch", "lora.lora_dropout": 0.1,
        "data.train": data, "base.name": str(base), "output_dir": str(folder),
    }  # fmt: skip
    return load_config("tiny", values=quick | values)


def entries(folder):
    lines = (Path(folder) / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def weights(folder):
    from safetensors.torch import load_file

    return load_file(Path(folder) / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def run(toy_base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("soft")
    config = settings(toy_base, folder / "run", source(folder))
    return config, train(config)


def test_evaluations_report_the_loss_of_the_shares_and_the_accuracy_of_the_likeliest(run):
    config, result = run
    fitted = fit(config, {})
    assert fitted.config.data.soft_labels
    probabilities = np.load(Path(config.output_dir) / "evaluation_probabilities.npy")
    shares = np.array(fitted.evaluation.shares)
    assert shares.shape == probabilities.shape and len(shares) == 6
    expected = -(shares * np.log(probabilities)).sum(-1).mean()
    np.testing.assert_allclose(result.metrics.log_loss, expected, rtol=1e-9)
    right = (probabilities.argmax(-1) == shares.argmax(-1)).mean()
    assert result.metrics.accuracy == right
    evaluations = [e["eval_log_loss"] for e in entries(config.output_dir) if "eval_log_loss" in e]
    assert len(evaluations) == 3 and min(evaluations) == pytest.approx(result.metrics.log_loss)


def test_the_loss_of_a_step_is_the_mean_of_its_rows(run):
    """Its first is near that of a guess: 16 rows count as 16, not as their labels' tokens."""
    config, _ = run
    losses_ = [entry["loss"] for entry in entries(config.output_dir) if "loss" in entry]
    assert len(losses_) == 6 and 0.3 < losses_[0] < 3


def test_a_stopped_run_resumes_to_the_same_weights(run, toy_base, tmp_path, monkeypatch):
    config, _ = run
    data = config.data.train
    again = settings(toy_base, tmp_path / "parts", data)
    interrupt_in_step(monkeypatch, 3)
    with pytest.raises(Interrupted):
        train(again)
    monkeypatch.undo()
    train(again, resume=True)
    for name, tensor in weights(config.output_dir).items():
        assert torch.equal(weights(tmp_path / "parts")[name], tensor), name
    (tmp_path / "other").mkdir()
    with pytest.raises(UsageError, match=r"data\.train|rows of data"):
        train(settings(toy_base, tmp_path / "parts", source(tmp_path / "other", 0.8)), resume=True)


def test_rows_with_one_label_can_train_with_the_loss_of_shares(toy_base, tmp_path):
    """`training.loss=labels`; both paths take the same steps."""
    found = {}
    for implementation in ("auto", "reference"):
        folder = tmp_path / implementation
        train(settings(toy_base, folder, "embedded", **{
            "training.loss": "labels", "lora.lora_dropout": 0.0, "data.num_train": 32,
            "data.num_evaluation": 8, "engine.implementation": implementation}))  # fmt: skip
        found[implementation] = weights(folder / "checkpoint-6")
        first = next(entry["loss"] for entry in entries(folder) if "loss" in entry)
        assert 0.3 < first < 5  # of two labels; that of a token is near ln 1000
    for name, tensor in found["reference"].items():
        difference = torch.linalg.norm(found["auto"][name] - tensor)
        assert difference <= 1e-3 * torch.linalg.norm(tensor), name


def test_an_adapter_of_soft_labels_is_evaluated_like_any_other(run):
    result = evaluate(run[0].output_dir, device="cpu")
    assert result.num_rows == 12  # a fifth, held out
    assert result.adapter is not None and result.baseline is not None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_captured_passes_train_as_plain_ones_on_a_gpu(tmp_path):
    """Shares in CUDA graphs, and in padded passes of plain PEFT."""
    found = {}
    for implementation in ("auto", "reference"):
        folder = tmp_path / implementation
        train(settings("embedded", folder, "embedded", **{
            "training.loss": "labels", "lora.lora_dropout": 0.0, "data.num_train": 160,
            "data.num_evaluation": 16, "base.device": "cuda", "base.compute_dtype": "float32",
            "training.max_steps": 12,
            "engine.implementation": implementation}))  # fmt: skip
        found[implementation] = [e["loss"] for e in entries(folder) if "loss" in e]
    assert len(found["auto"]) == 12 and found["auto"][0] != found["auto"][-1]
    np.testing.assert_allclose(found["auto"], found["reference"], rtol=1e-3)
