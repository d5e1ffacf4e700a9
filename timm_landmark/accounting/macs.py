"""Counts parameters, multiply-adds (MACs) and activations of models, and lists operators that cannot be counted.

A MAC is one multiply-add of a convolution or a matrix product, including the two products of attention. Norms, pooling,
activations, softmax, additions and scalings are element-wise and have no MACs. By default fvcore adds 2 per element for
BatchNorm and 1 for global pooling; these are kept separately as ``norm_and_pool``, so that ``macs + norm_and_pool`` is
the number that fvcore and timm's tables give.
"""

import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from timm_landmark.accounting.operators import operator_handles
from timm_landmark.layers import ChannelAttention2d, attention_path
from timm_landmark.utils.errors import UserError, first_line


@dataclass(frozen=True)
class MacCount:
    """The cost of one forward pass of one image.

    Attributes:
        convolution: MACs in convolutions.
        matmul: MACs in linear layers and matrix products.
        attention: MACs in fused scaled dot-product attention.
        norm_and_pool: Operations that fvcore adds for norms and pooling; not MACs.
        activations: Output elements of convolutions and matrix products.
        uncounted: Operators that are not counted, and how often each occurs.
    """

    convolution: int
    matmul: int
    attention: int
    norm_and_pool: int
    activations: int
    uncounted: dict[str, int]

    @property
    def macs(self) -> int:
        """All multiply-adds."""
        return self.convolution + self.matmul + self.attention


def count_macs(model: nn.Module, x: torch.Tensor) -> MacCount:
    """Counts a forward pass by tracing it with fvcore, with this package's handle for every operator.

    Args:
        model: Any module; it is in evaluation mode during the trace.
        x: Input, shape (1, C, H, W); larger batches give the count of the whole batch.

    Returns:
        The count; operators without a handle are listed in ``uncounted``.
    """
    with _evaluating(model), torch.no_grad(), _quiet():
        from fvcore.nn import FlopCountAnalysis

        analysis = FlopCountAnalysis(model, x).clear_op_handles().set_op_handle(**operator_handles())
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
        counted = Counter({key: int(value) for key, value in analysis.by_operator().items()})
        uncounted = Counter({name: int(times) for name, times in analysis.unsupported_ops().items()})
    uncounted.update({key[1:]: counted.pop(key) for key in list(counted) if key.startswith("?")})
    keys = ("convolution", "matmul", "attention", "norm_and_pool", "activations")
    return MacCount(**{key: counted[key] for key in keys}, uncounted=dict(sorted(uncounted.items())))


def count_macs_by_torch(model: nn.Module, x: torch.Tensor) -> dict[str, int]:
    """Counts the convolutions and matrix products of a real forward pass with torch's own counter.

    The counter observes the dispatcher, so it shares no code with :func:`count_macs` and also counts inside autograd
    functions. It does not count fused attention and matrix-vector products.

    Returns:
        MACs of ``convolution`` and ``matmul``; torch counts 2 per multiply-add, this function 1.
    """
    from torch.utils.flop_counter import FlopCounterMode

    with _evaluating(model), torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(x)
    counts = {"convolution": 0, "matmul": 0}
    for operator, flops in counter.get_flop_counts().get("Global", {}).items():
        name = str(operator).removeprefix("aten.")
        if "convolution" in name:
            counts["convolution"] += flops // 2
        elif name in ("mm", "addmm", "bmm", "baddbmm"):
            counts["matmul"] += flops // 2
    return counts


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """The number of all parameters and of those outside the classifier, if the model has timm's ``get_classifier``."""
    total = sum(p.numel() for p in model.parameters())
    get_classifier = getattr(model, "get_classifier", None)
    classifier = get_classifier() if get_classifier is not None else None
    modules = classifier if isinstance(classifier, Sequence) else [classifier]
    return total, total - sum(p.numel() for m in modules if isinstance(m, nn.Module) for p in m.parameters())


def convolution_weights(model: nn.Module) -> int:
    """Weights of all convolutions, without biases and norms, as in section 3.2.4."""
    return sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Conv2d))


@dataclass(frozen=True)
class ModelCount:
    """One row of a table of models; MACs and activations are of one image."""

    model: str
    img_size: int
    params: int
    params_without_classifier: int
    macs: int
    macs_spent: int
    norm_and_pool: int
    activations: int
    uncounted: dict[str, int]
    torch_agrees: bool

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def attention_unit_macs(model: nn.Module, x: torch.Tensor, path: str | None = None) -> int:
    """MACs of all attention units in one forward pass, by the formula of the layer.

    Args:
        model: A model with any number of ``ChannelAttention2d`` layers.
        x: Input, shape (1, C, H, W).
        path: The path to count; by default the one that each unit would use for its shapes.
    """
    total = 0

    def add(unit: ChannelAttention2d, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        nonlocal total
        _, in_chs, height, width = inputs[0].shape
        shapes = (in_chs, output.shape[1], unit.groups, height, width)
        chosen = path or attention_path.choose_path(*shapes)
        total += sum(attention_path.channel_attention_macs(*shapes, chosen).values())

    units = [module for module in model.modules() if isinstance(module, ChannelAttention2d)]
    hooks = [unit.register_forward_hook(add) for unit in units]
    try:
        if units:
            with _evaluating(model), torch.no_grad():
                model(x)
    finally:
        for hook in hooks:
            hook.remove()
    return total


def count_model(name: str, img_size: int | None = None) -> ModelCount:
    """Builds a registered model and counts it, with attention units on the plain path and on the path that runs.

    Args:
        name: A model name for ``timm.create_model``, with ``timm_landmark`` imported.
        img_size: Side of the square input in pixels; the model's default if None.

    Raises:
        UserError: If there is no such model or it does not support the size.
    """
    model, x = build(name, img_size)
    try:
        with attention_path.force_path("plain"):
            plain = count_macs(model, x)
            by_torch = count_macs_by_torch(model, x)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise UserError(
            f"{name} does not support images of {x.shape[-1]} pixels ({first_line(error, 120)}); give another "
            "--img-size, or leave it out for the model's default"
        ) from None
    params, without_classifier = count_parameters(model)
    return ModelCount(
        model=name,
        img_size=x.shape[-1],
        params=params,
        params_without_classifier=without_classifier,
        macs=plain.macs,
        macs_spent=plain.macs - attention_unit_macs(model, x, "plain") + attention_unit_macs(model, x),
        norm_and_pool=plain.norm_and_pool,
        activations=plain.activations,
        uncounted=plain.uncounted,
        torch_agrees=plain.convolution == by_torch["convolution"]
        and 0 <= by_torch["matmul"] - plain.matmul <= plain.attention,  # torch may count fused attention as products
    )


def build(name: str, img_size: int | None = None) -> tuple[nn.Module, torch.Tensor]:
    """A model in evaluation mode with random weights, and an input of zeros for it, shape (1, C, P, P).

    Raises:
        UserError: If there is no such model, or it cannot be built or set to the size.
    """
    import timm

    if not timm.is_model(name):
        from difflib import get_close_matches

        near = get_close_matches(name, timm.list_models(), n=3)
        hint = f"similar names: {', '.join(near)}" if near else "timm.list_models() lists all models"
        raise UserError(f"no model {name!r} in timm or timm_landmark; {hint}")
    try:
        model: Any = timm.create_model(name).eval().requires_grad_(False)
    except (RuntimeError, TypeError) as error:  # an unknown tag, or a model that needs arguments
        raise UserError(f"{name} cannot be built ({first_line(error, 120)}); give another name") from None
    channels, height, _ = model.default_cfg["input_size"]
    size = img_size or height
    if size != height and hasattr(model, "set_input_size"):
        try:
            model.set_input_size(img_size=size)  # models of fixed size, such as timm's ViTs
        except (AssertionError, ValueError) as error:
            raise UserError(f"{name} cannot be set to --img-size {size} ({error})") from None
    try:
        return model, torch.zeros(1, channels, size, size)
    except RuntimeError as error:
        raise UserError(f"--img-size {size}: no memory for such an image ({first_line(error, 120)})") from None


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:  # one by one: a module may be frozen in a network that trains
            module.training = training


@contextmanager
def _quiet() -> Iterator[None]:
    """Hides fvcore's warnings about the deprecation of torch.jit, which do not affect the count."""
    logger = logging.getLogger("fvcore")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
