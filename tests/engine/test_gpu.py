"""What needs a GPU: the kernels, the graphs, the path of a T4, bfloat16 that stays finite.

pytest -m gpu          # their last output is in docs/results.md
"""

import math

import pytest
import torch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here"),
]
HALF = [torch.bfloat16, torch.float16]


def error(result, exact):
    return ((result.double() - exact.double()).norm() / exact.double().norm()).item()


def assert_as_good_as_plain(kernel, plain, exact):
    """The rule for kernels: at most twice the error of plain PyTorch in the same dtype."""
    assert kernel.isfinite().all()
    assert error(kernel, exact) <= 2 * error(plain, exact) + 1e-12


@pytest.fixture
def plain(monkeypatch):
    """Runs a function with the Triton kernels switched off."""
    from sentilora.engine import elementwise, groups

    def run(function, *arguments):
        with monkeypatch.context() as patch:
            for module in (elementwise, groups):
                patch.setattr(module, "use_triton", lambda x: False)
            return function(*arguments)

    return run


@pytest.mark.parametrize("dtype", [*HALF, torch.float32])
@pytest.mark.parametrize("shape", [(7, 64), (129, 4096), (1000, 7168)])
def test_elementwise_kernels(plain, dtype, shape):
    from sentilora.engine import elementwise as ew

    torch.manual_seed(0)
    T, D = shape

    def draw(*size):
        return torch.randn(size, device="cuda", dtype=dtype)

    x, d, residual, gate_up = draw(T, D), draw(T, D), draw(T, D), draw(T, 2 * D)
    weight = draw(D) + 2
    # In float64 throughout, which the plain norm is not.
    wide, wide_gate_up = x.double().requires_grad_(), gate_up.double().requires_grad_()
    normed = weight.double() * wide * (wide.square().mean(-1, keepdim=True) + 1e-5).rsqrt()
    (dx,) = torch.autograd.grad(normed, wide, d.double())
    gate, up = wide_gate_up.chunk(2, -1)
    activated = torch.nn.functional.silu(gate) * up
    (d_gate_up,) = torch.autograd.grad(activated, wide_gate_up, d.double())
    cases = [
        (normed, ew.rms_norm, (x, weight, 1e-5)),
        (dx + residual, ew.rms_norm_backward, (d, x, weight, 1e-5, residual)),
        (dx, ew.rms_norm_backward, (d, x, weight, 1e-5, None)),
        (activated, ew.swiglu, (gate_up,)),
        (d_gate_up, ew.swiglu_backward, (d, gate_up)),
    ]
    for exact, function, arguments in cases:
        assert_as_good_as_plain(function(*arguments), plain(function, *arguments), exact)
    heads, cos, sin = draw(T, 2, D // 2), draw(T, D // 2), draw(T, D // 2)
    for backward in (False, True):
        out, out_plain, exact = heads.clone(), heads.clone(), heads.double()
        ew.rotate(out, cos, sin, out, backward)
        plain(ew.rotate, out_plain, cos, sin, out_plain, backward)
        plain(ew.rotate, exact, cos.double(), sin.double(), exact, backward)
        assert_as_good_as_plain(out, out_plain, exact)


@pytest.mark.parametrize("dtype", [*HALF, torch.float32])
@pytest.mark.parametrize("shape", [(70, 128, 3, 16), (1000, 4096, 2, 8), (333, 14336, 1, 32)])
@pytest.mark.parametrize("dropout", [0.0, 0.05])
def test_adapter_kernels(dtype, shape, dropout):
    from sentilora.engine.lora_kernels import Masks, down, down_backward

    torch.manual_seed(0)
    T, D, num, rank = shape
    R, scale = num * rank, 2 / (1 - dropout)
    drawn = Masks(dropout, torch.tensor([77], device="cuda"), 24)
    scales = [scale] * num
    A = torch.randn(R, D, device="cuda") / D**0.5
    x = torch.randn(T, D + -(-R // 64) * 64, device="cuda", dtype=dtype)
    dh = torch.randn(T, R, device="cuda", dtype=dtype)
    masks = []
    for i in range(num):  # read off the kernel: ones through a row of ones
        ones, row = torch.zeros_like(dh), torch.zeros_like(A)
        ones[:, i * rank] = 1
        row[i * rank] = 1
        mask = torch.zeros(T, D, device="cuda", dtype=dtype)
        down_backward(ones, x[:, :D], mask, row.split(rank), scales, drawn)
        masks.append(mask != 0)
        share = 1 - masks[-1].double().mean().item()
        assert abs(share - dropout) <= 5 * (dropout * (1 - dropout) / (T * D)) ** 0.5
    wide, matrix = x[:, :D].double(), A.to(dtype).double().split(rank)
    h = down(x[:, :D], A.split(rank), scales, drawn, x)
    assert torch.equal(x[:, D : D + R], h) and not x[:, D + R :].any()
    exact = torch.cat([scale * (wide * m) @ a.T for m, a in zip(masks, matrix, strict=True)], -1)
    assert error(h, exact) <= (4e-3 if dtype == torch.bfloat16 else 1e-3)
    before = torch.randn(T, D + 64, device="cuda", dtype=dtype)
    after = before.clone()
    dA = down_backward(dh, x[:, :D], after[:, :D], A.split(rank), scales, drawn)
    parts = dh.double().split(rank, -1)
    exact_dA = torch.cat([scale * g.T @ (wide * m) for g, m in zip(parts, masks, strict=True)])
    exact_dx = before[:, :D].double() + sum(
        scale * (g @ a) * m for g, a, m in zip(parts, matrix, masks, strict=True)
    )
    assert error(dA, exact_dA) <= (4e-3 if dtype == torch.bfloat16 else 1e-3)
    assert error(after[:, :D], exact_dx) <= (4e-3 if dtype == torch.bfloat16 else 1e-3)
    assert torch.equal(after[:, D:], before[:, D:])


@pytest.mark.parametrize("dtype", HALF)
def test_backward_through_swiglu(dtype):
    """One pass computes both gradients; in two steps the result is rounded once more."""
    from sentilora.engine.elementwise import SwiGLU, swiglu, swiglu_backward
    from sentilora.engine.lora_kernels import Masks, down_backward

    torch.manual_seed(0)
    z = torch.randn(1000, 2 * 14336, device="cuda", dtype=dtype)
    dh = torch.randn(1000, 16, device="cuda", dtype=dtype)
    dx = torch.randn(1000, 14336, device="cuda", dtype=dtype)
    A = [torch.randn(16, 14336, device="cuda") / 14336**0.5]
    drawn = Masks(0.05, torch.tensor([5], device="cuda"), 8)
    after, place = dx.clone(), z.clone()
    expected_dA = down_backward(dh, swiglu(z), after, A, [2.0], drawn)
    expected = swiglu_backward(after, z)
    dA = down_backward(dh, place, dx, A, [2.0], drawn, SwiGLU())
    assert error(dA, expected_dA) < 1e-6
    assert error(place, expected) <= (8e-3 if dtype == torch.bfloat16 else 1e-3)


@pytest.mark.parametrize("dtype", HALF)
def test_attention_kernels(dtype):
    from sentilora.engine import attention as at
    from sentilora.engine.segments import lay_out, share_prefix

    torch.manual_seed(0)
    rows = [[1, 2, 3, *torch.randint(5, 99, (n,)).tolist()] for n in (40, 200, 7, 300)]
    for round_up in (False, True):
        packed = lay_out(share_prefix(rows, [2, 1, 3, 2]), "cuda", round_up=round_up)
        for who in (packed.attention, packed.answers):
            q = torch.randn(sum(who.q_lengths), 32, 128, device="cuda", dtype=dtype)
            kv = torch.randn(packed.num_tokens, 16, 128, device="cuda", dtype=dtype)
            d = torch.randn_like(q)

            def run(attend, q, kv, d, who=who):
                q, kv = q.detach().requires_grad_(), kv.detach().requires_grad_()
                out = attend(q, kv, who, 128**-0.5, None)
                out.backward(d)
                return out.detach(), q.grad, kv.grad

            exact = run(at.by_segment, q.double(), kv.double(), d.double())
            reference = run(at.by_segment, q, kv, d)
            for attend in (at.varlen, at.efficient, at.tiled):
                for result, same_dtype, best in zip(
                    run(attend, q, kv, d), reference, exact, strict=True
                ):
                    assert_as_good_as_plain(result, same_dtype, best)


def test_decoded_weights_are_bitsandbytes_bits():
    import bitsandbytes as bnb

    from sentilora.engine import nf4_kernels

    torch.manual_seed(0)
    for dtype in (*HALF, torch.float32):
        linear = bnb.nn.Linear4bit(384, 1000, bias=False, quant_type="nf4").cuda()
        out = torch.full((1000, 384 + 64), 7.0, device="cuda", dtype=dtype)
        nf4_kernels.decode(linear, linear.weight.quant_state, out[:, :384])
        expected = bnb.functional.dequantize_4bit(linear.weight.data, linear.weight.quant_state)
        assert torch.equal(out[:, :384], expected.to(dtype)) and (out[:, 384:] == 7).all()


def embedded(*overrides):
    """The embedded base with a new adapter whose B matrices are not zero, and its engine."""
    from sentilora.config import load_config
    from sentilora.models.fast_path import install_engine
    from sentilora.stages.from_config import load_base_of, runtime_of
    from sentilora.stages.train import prepare_model

    config = load_config("tiny", overrides=["base.device=cuda", *overrides])
    base = load_base_of(config)
    model = prepare_model(config, base, None).train()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    engine = install_engine(model, runtime_of(config))
    engine.refresh()
    return base, model, engine


ROWS = [[1, 5, 6, 7, *range(10 * n, 10 * n + 9 * n)] for n in (3, 40, 1, 17, 20)]
LABELS = [[-100] * (len(row) - 2) + row[-2:] for row in ROWS]


def gradients_of(model):
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return gradients


@pytest.mark.parametrize("overrides", [(), ("engine.assume_capability=7.5",)], ids=["as is", "T4"])
def test_engine_equals_the_plain_path(overrides):
    from sentilora.scoring.batching import answer_loss, pack_answers, packed_answer_loss

    base, model, engine = embedded("lora.lora_dropout=0.0", *overrides)
    attend = engine.layers[0].fast.attend.__name__
    own = "tiled" if torch.cuda.get_device_capability() == (9, 0) else "varlen"
    expected = ("efficient", torch.float16) if overrides else (own, torch.bfloat16)
    assert (attend, base.dtype) == expected
    with torch.autocast("cuda", dtype=base.dtype):
        loss = answer_loss(model, ROWS, LABELS, [1.0] * 5, 0)
        loss.backward()
        plain_gradients = gradients_of(model)
        answers = pack_answers(ROWS, LABELS, [1.0] * 5, "cuda")
        packed = packed_answer_loss(model, answers.packed, answers.targets_A, answers.weights_A)
        packed.backward()
    fast_gradients = gradients_of(model)
    assert packed.item() == pytest.approx(loss.item(), rel=5e-3)
    assert len(fast_gradients) == len(plain_gradients) == 6 * 7 * 2
    for name, gradient in plain_gradients.items():
        assert error(fast_gradients[name], gradient) < 0.05, name


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("engine.assume_capability=8.6",),
        ("engine.assume_capability=7.5",),
        ("base.compute_dtype=float32",),
    ],
    ids=["as is", "8.6", "T4", "float32"],
)
def test_many_labels_level_by_level(overrides):
    """Trees of labels on every attention, against a row for each path on the plain path."""
    from sentilora.scoring.labels import LabelScorer

    base, model, engine = embedded("lora.lora_dropout=0.0", *overrides)
    labels = [[100 + i % 7, 200 + i % 5, 300 + i % 11, 400 + i, 2] for i in range(120)]
    prompts = [row[:-1] for row in ROWS]
    scorer = LabelScorer(model, labels, 0, base.dtype, engine=engine)
    got, scores = scorer.log_probs(prompts), scorer.score(prompts, max_left_out=1e-3)
    engine.remove()
    scorer = LabelScorer(model, labels, 0, base.dtype)
    cached = scorer.log_probs(prompts)
    assert scorer._branches_work
    scorer._branches_work = False
    expected = scorer.log_probs(prompts)
    # Five log-probabilities near −10, which have steps of 2⁻⁴ in bfloat16.
    tolerance = 1e-3 if base.dtype == torch.float32 else 0.5
    for other in (got, cached):
        assert (other - expected).abs().max() < tolerance
    assert 0 < scores.left_out.max() <= 1e-3
    # Log-probabilities at most t apart give probabilities at most tanh(t/2) apart.
    limit = 1e-3 + math.tanh(tolerance / 2)
    assert (scores.log_probs.softmax(-1) - got.softmax(-1)).abs().max() < limit


@pytest.mark.parametrize("capability", [0.0, 8.6], ids=["as is", "8.6"])
def test_many_labels_stay_within_the_memory_of_a_scoring_pass(capability):
    from sentilora.scoring.labels import LabelScorer

    base, model, engine = embedded(f"engine.assume_capability={capability}")
    labels = [[100 + i % 7, 200 + i % 5, 300 + i % 11, 400 + i, 2] for i in range(1000)]
    prompts = [row[:-1] for row in ROWS] * 40
    scorer = LabelScorer(model, labels, 0, base.dtype, engine=engine)
    scorer.log_probs(prompts[:20])
    engine.keep_weights()
    scorer.log_probs(prompts[:20])  # weights are decoded now
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    scorer.log_probs(prompts)
    used = torch.cuda.max_memory_allocated() - before
    # 20 % for what is not counted.
    assert 0 < used <= 1.2 * engine.tree_room(base.model.config.vocab_size).total


@pytest.mark.parametrize("checkpoint_layers", [0, 4])
def test_graphs_equal_launches_one_by_one(checkpoint_layers):
    from sentilora.engine.graph import FlatParameters, Graphs
    from sentilora.scoring.batching import pack_answers, packed_answer_loss

    _, model, engine = embedded()

    def loss_of(*arguments):
        with torch.autocast("cuda", dtype=torch.bfloat16):
            return packed_answer_loss(model, *arguments)

    def answers_on(device, seed):
        answers = pack_answers(
            ROWS,
            LABELS,
            [1.0] * 5,
            device,
            dropout_seed=seed,
            checkpoint_layers=checkpoint_layers,
            round_up=True,
        )
        return answers.packed, answers.targets_A, answers.weights_A

    eager = []
    for seed in (1, 2):
        loss = loss_of(*answers_on("cuda", seed))
        loss.backward()
        eager.append((loss.item(), gradients_of(model)))
    flat = FlatParameters([p for p in model.parameters() if p.requires_grad])
    del loss  # its graph belongs to another stream than the capture's
    graphs = Graphs(flat, engine.refresh)
    graphs.scale_losses(torch.ones((), device="cuda"))
    for seed in (1, 2):
        flat.zero_grad()
        loss = graphs.backward(loss_of, *answers_on("cpu", seed))
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        assert loss.item() == eager[seed - 1][0]
        assert len(gradients) == 6 * 7 * 2
        for name, gradient in eager[seed - 1][1].items():
            # Flash attention sums the queries' gradient in no fixed order.
            assert error(gradients[name], gradient) < 1e-3, name
    assert len(graphs._captured) == 1


def test_fp8_products_are_near(plain):
    from sentilora.engine import elementwise, fp8

    if torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("8-bit products need compute capability 8.9")
    torch.manual_seed(0)
    like = {"device": "cuda", "dtype": torch.bfloat16}
    x, h, d = (torch.randn(100, n, **like) for n in (512, 48, 256))
    W, B = torch.randn(256, 512, **like), torch.randn(256, 48, **like) * 0.1
    weight = fp8.quantize_weight(W, 48)
    weight.place(B)
    exact = x.double() @ W.double().T + h.double() @ B.double().T
    assert error(fp8.project(x, h, weight), exact) < 0.05
    alone = fp8.project(torch.zeros_like(x), h, weight)
    assert error(alone, h.double() @ B.double().T) < 0.01
    dx, dh = fp8.project_backward(d, weight, True)
    assert error(dx, d.double() @ W.double()) < 0.05
    assert error(dh, d.double() @ B.double()) < 0.05
    none, dh_alone = fp8.project_backward(d, weight, False)
    assert none is None and torch.equal(dh_alone, dh)
    # Scoring: x goes through the norm, and the product with A is in 8 bits too.
    A = torch.randn(48, 512, **like) * 0.1
    weight.place_down(A)
    norm = elementwise.Norm(torch.rand(512, **like), 1e-5)
    inputs = norm(x).double()
    exact = inputs @ W.double().T + inputs @ A.double().T @ B.double().T
    assert error(fp8.score(x, weight, norm), exact) < 0.05
    for base_alone in (
        fp8.project(x, None, weight),
        fp8.project(x, None, fp8.quantize_weight(W, 0)),
        fp8.score(x, weight, adapters=False),
    ):
        assert error(base_alone, x.double() @ W.double().T) < 0.05
    # A NaN stays one, so that it can be noticed.
    x[3, 7] = torch.nan
    for y in (fp8.project(x, h, weight), fp8.score(x, weight, norm)):
        assert y[3].isnan().all() and not y[:3].isnan().any() and not y[4:].isnan().any()
    x[3, 7], B[5, 2] = 0.0, torch.nan
    weight.place(B)
    assert fp8.project(x, h, weight)[:, 5].isnan().all()


def test_8_bits_are_tried_before_they_are_trusted(monkeypatch):
    from sentilora.engine import fp8

    if torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("8-bit products need compute capability 8.9")
    like = torch.empty(1, device="cuda", dtype=torch.bfloat16)
    assert fp8.fault(like) is None
    product = fp8._product
    monkeypatch.setattr(fp8, "_product", lambda *args: 2 * product(*args))
    assert "wrong here, in torch.bfloat16" in fp8.fault(like)
    monkeypatch.setattr(fp8, "_product", lambda *args: torch.ones(2) @ torch.ones(3))
    assert "refuses them (" in fp8.fault(like)


def test_a_classifier_in_8_bits_is_near_the_exact_one():
    from sentilora import Classifier
    from sentilora.data.sources import read_table

    if torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("8-bit products need compute capability 8.9")
    texts = read_table("embedded", "train")["text"].to_pylist()[:200]
    exact, rounded = Classifier.load(), Classifier.load(base_matmul="fp8")

    def base_alone(classifier):
        with classifier.adapter_disabled():
            return classifier.predict_proba(texts)

    for first, second in (
        (exact.predict_proba(texts), rounded.predict_proba(texts)),
        (base_alone(exact), base_alone(rounded)),
    ):
        assert 0 < abs(first - second).max() < 0.2 and abs(first - second).mean() < 0.02
    assert exact.computed_on == "cuda, bfloat16"
    assert rounded.computed_on == "cuda, bfloat16, 8-bit products"
    # Two texts take the same path as two hundred; the rest of the pass changes only the order.
    few = rounded.predict_proba(texts[:2])
    assert abs(few - rounded.predict_proba(texts)[:2]).max() < 0.01


@pytest.mark.parametrize("implementation", ["auto", "reference"])
def test_training_in_half_precision_stays_finite(tmp_path, implementation):
    """Padded on the left, with an attention mask, this ended in NaN within 200 steps."""
    from sentilora.config import load_config
    from sentilora.stages.train import train

    config = load_config(
        "tiny",
        overrides=[
            f"engine={implementation}",
            "training.num_train_epochs=10.0",
            "training.eval_steps=100",
            "training.save_steps=100",
        ],
        values={"output_dir": str(tmp_path / "run")},
    )
    result = train(config)
    # Ten epochs of 320 rows are memorized; the test is that every number stays finite.
    assert result.num_steps == 200 and result.metrics.accuracy_interval[0] > 0.5
