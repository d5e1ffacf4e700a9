"""Multiply-adds of each operator, as handles for fvcore; an operator counts as zero only if it is listed here."""

from collections import Counter
from collections.abc import Callable
from math import prod
from typing import Any

Handle = Callable[[list[Any], list[Any]], Counter[str]]

# Operators without multiply-adds that fvcore does not know; each name includes the in-place form. An operator that is
# neither listed here nor one of fvcore's shape and copy operators is reported by name.
# fmt: off
ELEMENTWISE = (
    "_upsample_bicubic2d_aa",
    "abs", "adaptive_max_pool2d", "add", "addcmul", "all", "amax", "amin", "any", "avg_pool1d", "avg_pool2d",
    "ceil", "celu", "clamp_min", "clone", "cos", "cumsum", "div", "dropout", "elu", "embedding", "eq", "erf", "exp",
    "expand_as", "eye", "feature_dropout", "fill", "flip", "gelu", "glu", "hardsigmoid", "hardswish",
    "hardtanh", "im2col", "index_select", "leaky_relu", "lift_fresh", "linalg_vector_norm", "log", "log_softmax",
    "logical_not", "lt", "masked_fill", "max_pool1d", "max_pool2d", "maximum", "mean", "meshgrid", "min",
    "minimum", "mish", "mul", "ne", "neg", "norm", "normal", "numel", "numpy_T", "one_hot", "ones_like", "pad",
    "pixel_shuffle", "pixel_unshuffle", "pow", "prelu", "reciprocal", "reflection_pad2d", "relu6", "repeat",
    "repeat_interleave", "replication_pad2d", "reshape_as", "rms_norm", "rsqrt", "rsub", "scalar_tensor",
    "scatter", "selu", "sigmoid", "silu", "sin", "softmax", "softplus", "sqrt", "square", "sub", "sum",
    "swapaxes", "tanh", "tile", "topk", "unflatten", "unfold", "upsample_bicubic2d", "var", "var_mean", "where",
    "zero",
)
# fmt: on


def operator_handles() -> dict[str, Handle]:
    """Handles by operator name; each returns a Counter of ``convolution``, ``matmul``, ``attention`` (MACs) and more.

    The other keys are ``norm_and_pool`` (fvcore's count for norms and pooling), ``activations`` (output elements of
    convolutions and products) and ``?NAME`` for an operator that is used in a way that its handle does not support.
    """
    from fvcore.nn import jit_handles as fvcore_handles

    handles: dict[str, Handle] = {
        "_convolution": _convolution,
        "_convolution_mode": _convolution,  # string padding; fvcore's defaults count it as zero
        **{name: _product(name, first=0) for name in ("linear", "matmul", "mm", "bmm", "mv")},
        **{name: _product(name, first=1) for name in ("addmm", "addmm_", "baddbmm", "baddbmm_", "addmv")},
        "einsum": _einsum,
        "scaled_dot_product_attention": _attention,
    }
    norms_and_pools = {
        "batch_norm": fvcore_handles.batchnorm_flop_jit,
        "group_norm": fvcore_handles.norm_flop_counter(2),
        "layer_norm": fvcore_handles.norm_flop_counter(2),
        "instance_norm": fvcore_handles.norm_flop_counter(1),
        "adaptive_avg_pool2d": fvcore_handles.elementwise_flop_counter(1, 0),
        "upsample_nearest2d": fvcore_handles.elementwise_flop_counter(0, 1),
        "upsample_bilinear2d": fvcore_handles.elementwise_flop_counter(0, 4),
        "grid_sampler": fvcore_handles.elementwise_flop_counter(0, 4),
    }
    handles.update({name: _renamed("norm_and_pool", handle) for name, handle in norms_and_pools.items()})
    handles.update({form: _nothing for name in ELEMENTWISE for form in (name, f"{name}_")})
    return {f"aten::{name}": handle for name, handle in handles.items()}


def _nothing(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    return Counter()


def _renamed(key: str, handle: Callable[[list[Any], list[Any]], Any]) -> Handle:
    return lambda inputs, outputs: Counter({key: handle(inputs, outputs)})


def _unsupported(name: str) -> Counter[str]:
    return Counter({f"?aten::{name}": 1})


def _shapes(*values: Any) -> list[list[int]] | None:
    """The shapes of traced values, or None if one of them is unknown."""
    from fvcore.nn.jit_handles import get_shape

    shapes = [get_shape(value) for value in values]
    known = [shape for shape in shapes if shape is not None]
    return known if len(known) == len(shapes) else None


def _convolution(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    shapes = _shapes(inputs[0], inputs[1], outputs[0])
    if shapes is None:
        return _unsupported("_convolution")
    x, weight, out = shapes
    transposed = len(inputs) > 7 and inputs[6].toIValue()  # `_convolution_mode` has no such argument
    positions = prod((x if transposed else out)[2:])
    return Counter({"convolution": out[0] * prod(weight) * positions, "activations": prod(out)})


def _product(name: str, first: int) -> Handle:
    """Product of ``inputs[first]`` and the next input: each output element is a sum over the first one's last axis."""

    def handle(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
        shapes = _shapes(inputs[first], outputs[0])
        if shapes is None:
            return _unsupported(name)
        a, out = shapes
        return Counter({"matmul": prod(out) * a[-1], "activations": prod(out)})

    return handle


def _einsum(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """Left to right, as torch computes it: each step runs over all indices of its two operands."""
    equation = inputs[0].toIValue().replace(" ", "")
    shapes = _shapes(*inputs[1].node().inputs(), outputs[0])
    if "..." in equation or "->" not in equation or shapes is None:
        return _unsupported("einsum")
    operands, result = equation.split("->")
    terms = operands.split(",")
    *shapes, out = shapes
    sizes = {index: n for term, shape in zip(terms, shapes, strict=True) for index, n in zip(term, shape, strict=True)}
    macs, current = 0, set(terms[0])
    for step, term in enumerate(terms[1:], start=2):
        current |= set(term)
        macs += prod(sizes[index] for index in current)
        current &= set(result).union(*terms[step:])
    return Counter({"matmul": macs, "activations": prod(out)})


def _attention(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    shapes = _shapes(inputs[0], inputs[1], outputs[0])
    if shapes is None:
        return _unsupported("scaled_dot_product_attention")
    q, k, out = shapes
    scores = prod(q[:-1]) * k[-2]  # (..., L, E) @ (..., E, S) -> (..., L, S), then @ (..., S, Ev)
    return Counter({"attention": scores * (q[-1] + out[-1]), "activations": prod(out)})
