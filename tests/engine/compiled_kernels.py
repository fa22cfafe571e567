"""Every Triton kernel, compiled for GPUs that this machine lacks, at Mistral-7B's widths.

A compiler refuses what the interpreter accepts (a return in the middle, more shared memory than the
GPU has). Launches are intercepted and compiled instead; nothing runs.

pytest tests/engine/compiled_kernels.py      # test_triton.py runs it
"""

from types import SimpleNamespace

import pytest
import torch
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from triton.runtime.jit import JITFunction

from sentilora.engine import (
    attention,
    attention_kernels,
    elementwise,
    fp8,
    kernels,
    lora_kernels,
    nf4_kernels,
)
from sentilora.engine.segments import Segment, lay_out

assert not kernels.INTERPRETED, "unset TRITON_INTERPRET"

# Bytes of shared memory that a program may have, by compute capability.
SHARED = {75: 64 * 1024, 80: 163 * 1024, 86: 99 * 1024, 89: 99 * 1024, 90: 227 * 1024}
TYPES = {
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.float32: "*fp32",
    torch.float8_e4m3fn: "*fp8e4nv",
    torch.int32: "*i32",
    torch.int64: "*i64",
    torch.uint8: "*u8",
}
OPTIONS = ("num_warps", "num_stages", "enable_fp_fusion")
HALF = [torch.float16, torch.bfloat16]


def type_of(value):
    if isinstance(value, torch.Tensor):
        return TYPES[value.dtype]
    if isinstance(value, float):
        return "fp32"
    return "i32" if -(2**31) <= value < 2**31 else "i64"


def source_of(kernel, values):
    """A kernel with its arguments' types, and what Triton would infer from their values."""
    names, varying = kernel.arg_names, kernel.do_not_specialize or []
    signature, constants, attributes = {}, {}, {}
    for place, name in enumerate(names):
        value = values[name]
        fixed = kernel.params[place].is_constexpr
        specialized = isinstance(value, int) and not fixed and name not in varying
        if fixed or (specialized and value == 1):
            signature[name], constants[(place,)] = "constexpr", value
            continue
        signature[name] = type_of(value)
        if isinstance(value, torch.Tensor) or (specialized and value % 16 == 0):
            attributes[(place,)] = [["tt.divisibility", 16]]
    return ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)


@pytest.fixture
def compiled(monkeypatch):
    """A function of the capabilities to compile for; returns the list of kernels launched since."""
    capabilities, names = [], []

    def run(self, *args, grid, warmup, **kwargs):
        options = {name: kwargs.pop(name) for name in OPTIONS if name in kwargs}
        options.setdefault("enable_fp_fusion", True)  # Triton 3.9 asks to be told
        source = source_of(self, {**dict(zip(self.arg_names, args, strict=False)), **kwargs})
        for capability in capabilities:
            binary = compile(source, target=GPUTarget("cuda", capability, 32), options=options)
            assert binary.metadata.shared <= SHARED[capability], (self.fn.__name__, capability)
        names.append(self.fn.__name__)

    monkeypatch.setattr(JITFunction, "run", run)
    for module in (attention, elementwise, fp8):
        monkeypatch.setattr(module, "use_triton", lambda x: True)

    def for_capabilities(*targets):
        capabilities[:] = targets
        return names

    return for_capabilities


def capabilities_of(dtype):
    return [c for c in SHARED if c >= 80 or dtype == torch.float16]


@pytest.mark.parametrize("dtype", HALF)
def test_elementwise(compiled, dtype):
    names = compiled(*capabilities_of(dtype))
    x, weight = torch.empty(8, 4096, dtype=dtype), torch.empty(4096, dtype=dtype)
    elementwise.rms_norm(x, weight, 1e-5)
    elementwise.Norm(weight, 1e-5, torch.empty(len(x)))(x)
    for residual in (None, x):
        elementwise.rms_norm_backward(x, x, weight, 1e-5, residual)
    gate_up = torch.empty(8, 2 * 14336, dtype=dtype)
    elementwise.swiglu(gate_up)
    elementwise.swiglu_backward(gate_up[:, :14336], gate_up)
    heads, table = torch.empty(8, 40, 128, dtype=dtype), torch.empty(8, 128, dtype=dtype)
    for backward in (False, True):
        elementwise.rotate(heads, table, table, heads, backward)
    assert len(names) == 8


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("num, width", [(3, 4096), (1, 4096), (2, 4096), (1, 14336)])
def test_adapters(compiled, dtype, num, width):
    names = compiled(*capabilities_of(dtype))
    A, scales = [torch.empty(16, width)] * num, [2.0] * num
    x = torch.empty(64, width + 64, dtype=dtype)
    gate_up = torch.empty(64, 2 * width, dtype=dtype)
    dh = torch.empty(64, 64, dtype=dtype)[:, : 16 * num]
    swiglu = elementwise.SwiGLU()
    for dropout in (0.0, 0.05):
        masks = lora_kernels.Masks(dropout, torch.tensor([5]), 8)
        if width == 14336:
            for into in (x, None):
                lora_kernels.down(gate_up, A, scales, masks, into, swiglu)
            lora_kernels.down_backward(dh, gate_up, x[:, :width], A, scales, masks, swiglu)
        else:
            lora_kernels.down(x[:, :width], A, scales, masks, x)
            lora_kernels.down(x[:, :width].contiguous(), A, scales, masks)
            norm = elementwise.Norm(torch.empty(width, dtype=dtype), 1e-5, torch.empty(64))
            for dx in (x[:, :width], None):
                lora_kernels.down_backward(dh, x[:, :width], dx, A, scales, masks)
                lora_kernels.down_backward(dh, x[:, :width], dx, A, scales, masks, norm)
    lora_kernels.place([torch.empty(100, 16)] * num, [slice(0, 100)] * num, 0, x[:, width:])
    assert len(names) > 8


@pytest.mark.parametrize("dtype", HALF)
def test_attention(compiled, dtype):
    names = compiled(80, 90)
    packed = lay_out([Segment([0] * 32), Segment([0] * 300, 0, 2)], "cpu", round_up=True)
    qkv = torch.empty(packed.num_tokens, 6144, dtype=dtype)
    q, kv = qkv[:, :4096].unflatten(-1, (32, 128)), qkv[:, 4096:].unflatten(-1, (16, 128))
    who = packed.attention
    for window in (None, 4096):
        out, log_sum = attention_kernels.attend(q, kv, who, 0.1, window)
        k, v = (torch.empty(len(who.key_rows_K), 8, 128, dtype=dtype) for _ in "kv")
        attention_kernels.attend_backward(out, q, kv, out, log_sum, who, 0.1, window, q, k, v)
    attention._sum_of_uses(k, v, who, kv)
    assert len(names) == 7


def test_8_bit_rows(compiled):
    names = compiled(89, 90)
    x, h = torch.empty(8, 4096, dtype=torch.bfloat16), torch.empty(8, 48, dtype=torch.bfloat16)
    weight = fp8.quantize_weight(torch.ones(64, 4096), 48)
    fp8.quantize_rows(x, h, weight.factor)
    weight.place(torch.empty(64, 48, dtype=torch.bfloat16))
    assert names == [*["_quantize_rows"] * 3, "_place_kernel"]


def test_8_bit_inputs_to_score(compiled):
    names = compiled(89, 90)
    norm = elementwise.Norm(torch.empty(4096, dtype=torch.bfloat16), 1e-5)
    for prologue, num in ((None, 16), (norm, 48), (elementwise.SwiGLU(), 16)):
        is_swiglu = isinstance(prologue, elementwise.SwiGLU)
        width = 14336 if is_swiglu else 4096
        weight = fp8.quantize_weight(torch.ones(64, width), num)
        weight.place_down(torch.ones(num, width))
        x = torch.empty(64, 2 * width, dtype=torch.bfloat16)
        names.clear()
        x8, scale = fp8.quantize_input(
            x if is_swiglu else x[:, :width], weight, weight.reach, prologue
        )
        fp8.place_ranks(x8, scale, weight, torch.empty(64, 2 * num, dtype=torch.bfloat16))
        assert names == ["_quantize_input", "_place_ranks"]


@pytest.mark.parametrize("dtype", HALF)
def test_decoding(compiled, dtype):
    names = compiled(*capabilities_of(dtype))
    num = 64 * 4096
    state = SimpleNamespace(
        absmax=torch.empty(num // 64, dtype=torch.uint8),
        state2=SimpleNamespace(absmax=torch.empty(num // 64 // 256), code=torch.empty(256)),
        code=torch.empty(16),
        offset=torch.empty(()),
    )
    linear = SimpleNamespace(weight=torch.empty(num // 2, 1, dtype=torch.uint8))
    nf4_kernels.decode(linear, state, torch.empty(64, 4096 + 64, dtype=dtype)[:, :4096])
    assert names == ["_decode_kernel"]
