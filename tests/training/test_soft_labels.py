"""Training on shares of labels: its loss and gradients against plain rows, its runs from the files.

What it answers: fine-tuning on annotators' disagreement or on another model's probabilities has
needed a classification head (transformers #19722, "problem_type for soft labels"; TRL #2537).
"""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import sentilora
from sentilora.config import load_config, read_config
from sentilora.data.rows import Rows
from sentilora.engine.swap import install
from sentilora.errors import Interrupted, UsageError
from sentilora.folders.classifier_file import BaseReference
from sentilora.folders.run_folder import TrainingResult
from sentilora.models.adapters import attach_adapter
from sentilora.models.bases import load_base
from sentilora.models.runtime import Runtime
from sentilora.prompt import Prompter, PromptFormat
from sentilora.scoring.label_loss import SoftExample
from sentilora.scoring.labels import LabelScorer
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
    assert sorted(sum(ShareLoss(scorer).plan(examples, 10**6), [])) == list(range(16))
    assert len(ShareLoss(scorer).plan(examples, 10**6)) == 1
    monkeypatch.setattr(losses, "MAX_LOGITS", 3 * rows * vocabulary + 1)
    passes = ShareLoss(scorer).plan(examples, 10**6)
    assert max(map(len, passes)) == 3 and sorted(sum(passes, [])) == list(range(16))
