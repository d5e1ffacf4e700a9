"""The paper's attention unit AU_C (section 3.2.3): the channels of a feature map attend to each other.

Source: "Pre-activation and self-attention in image classification", section 3.2.3.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.fx
import torch.nn.functional as F
from timm.models import register_notrace_function
from torch import nn

from timm_landmark.layers.attention_path import choose_path, is_forced
from timm_landmark.layers.folded_output import (
    can_fold,
    differentiates_forward,
    folded_output,
    folds_cheaply,
    in_autocast,
)
from timm_landmark.layers.graph_attention import graph_attend
from timm_landmark.layers.streamed_attention import channel_attend, compute_dtype


def channel_attention_reference(
    x: torch.Tensor, wq: torch.Tensor, wk: torch.Tensor, wv: torch.Tensor, groups: int
) -> torch.Tensor:
    """Scale of section 3.2.3, line by line as in the paper: the reference for every faster path.

    Args:
        x: The unit's input, shape (B, C, H, W).
        wq: Weight of the grouped 1x1 convolution that computes Q, shape (ch, C / groups, 1, 1).
        wk: The same for K.
        wv: The same for V.
        groups: Number of groups, the paper's cardinality.

    Returns:
        Scale, one number in (0, 1) per channel, shape (B, ch).
    """
    q = F.conv2d(x, wq, groups=groups).flatten(2)  # (B, ch, s)
    k = F.conv2d(x, wk, groups=groups).flatten(2)  # (B, ch, s)
    v = F.adaptive_avg_pool2d(F.conv2d(x, wv, groups=groups), 1).flatten(2)  # (B, ch, 1)
    attention = torch.softmax(q @ k.transpose(1, 2) / q.shape[2] ** 0.5, dim=-1)  # (B, ch, s) @ (B, s, ch)
    return torch.sigmoid(attention @ v).flatten(1)  # (B, ch, ch) @ (B, ch, 1) -> (B, ch)


def attention_scale(x: torch.Tensor, wq: torch.Tensor, wk: torch.Tensor, wv: torch.Tensor, groups: int) -> torch.Tensor:
    """Scale of section 3.2.3 by the path from ``choose_path``; arguments and result as for the reference.

    Softmax and sums run in float32 if the input is in half precision.
    """
    if torch.jit.is_scripting():  # also here: a model traced by torch.fx calls this function and may be scripted
        return _in_float32(x, wq, wk, wv, groups)
    return _chosen_scale(x, wq, wk, wv, groups)


@torch.jit.ignore()
def _chosen_scale(x: torch.Tensor, wq: torch.Tensor, wk: torch.Tensor, wv: torch.Tensor, groups: int) -> torch.Tensor:
    path = choose_path(x.shape[1], wq.shape[0], groups, x.shape[2], x.shape[3])
    if path == "plain" or differentiates_forward(x, wq, wk, wv):
        return _without_autocast(_in_float32, x, wq, wk, wv, groups)
    if torch.jit.is_tracing() or torch.compiler.is_exporting():
        return _without_autocast(_graph_scale, x, wq, wk, wv, groups, path)
    return torch.sigmoid(channel_attend(x, wq, wk, wv, groups, path)[0]).to(x.dtype)


# A single node for timm's feature extraction and torch.fx, which would otherwise trace into it or fail on its shapes.
register_notrace_function(attention_scale)
torch.fx.wrap("attention_scale")


def _without_autocast(compute: Callable[..., torch.Tensor], x: torch.Tensor, *args: Any) -> torch.Tensor:
    if in_autocast(x):
        with torch.autocast(x.device.type, enabled=False):
            return compute(x, *args)
    return compute(x, *args)


def _in_float32(x: torch.Tensor, wq: torch.Tensor, wk: torch.Tensor, wv: torch.Tensor, groups: int) -> torch.Tensor:
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    return channel_attention_reference(x.to(dtype), wq.to(dtype), wk.to(dtype), wv.to(dtype), groups).to(x.dtype)


def _graph_scale(
    x: torch.Tensor, wq: torch.Tensor, wk: torch.Tensor, wv: torch.Tensor, groups: int, path: str
) -> torch.Tensor:
    dtype = compute_dtype(x)
    attended = graph_attend(x.to(dtype), wq.to(dtype), wk.to(dtype), wv.to(dtype), groups, path)
    return torch.sigmoid(attended).to(x.dtype)


class ChannelAttention2d(nn.Module):
    """The attention unit: a grouped 1x1 projection whose channels are scaled by attention over all channels.

    Where the paper is ambiguous, this implementation uses 1x1 kernels (reading 2), BatchNorm on the output projection
    only and no bias in the projections (reading 3); the block adds the shortcut (reading 1).

    What computes Scale, and Scale * norm(output(x)), in each mode:

    ==========================  ==========================================  ======================================
    mode                        Scale                                       output
    ==========================  ==========================================  ======================================
    eager                       ``channel_attend``: the logits are          ``folded_output``: BatchNorm and Scale
                                streamed, no ch x ch map is stored          go into the weights, O is never formed
    autocast, half precision    the same; the products take bfloat16        the same (bfloat16), else as written
    torch.compile               the same operator, opaque to the compiler   the same
    torch.export, ONNX (dynamo) ``graph_attend``: ordinary operators, the   folded in evaluation mode, else as
                                cheaper path for the image size             written
    torch.jit.trace, old ONNX   ``graph_attend`` with the ``gram`` path     as written
    torch.func, forward-mode    plain: ordinary operators have every        as written
    derivatives, jit.script     derivative, and script cannot choose
    torch.fx                    one node, which chooses when it runs        as written
    ==========================  ==========================================  ======================================

    Scale is computed from the weights of ``query``, ``key`` and ``value``. These modules are never called, so hooks on
    them never run. Hooks on ``output`` and ``norm`` run only where the output is computed as written; use
    ``attention_path.force_path("plain")`` to get this in every mode.
    """

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        groups: int = 32,
        norm_layer: type[nn.Module] = nn.BatchNorm2d,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.query = nn.Conv2d(in_chs, out_chs, 1, groups=groups, bias=False, **dd)
        self.key = nn.Conv2d(in_chs, out_chs, 1, groups=groups, bias=False, **dd)
        self.value = nn.Conv2d(in_chs, out_chs, 1, groups=groups, bias=False, **dd)
        self.output = nn.Conv2d(in_chs, out_chs, 1, groups=groups, bias=False, **dd)
        self.norm = norm_layer(out_chs, **dd)
        self.groups = groups

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scale * norm(output(x)), shape (B, in_chs, H, W) -> (B, out_chs, H, W)."""
        weights = (self.query.weight, self.key.weight, self.value.weight)
        scale = attention_scale(x, weights[0], weights[1], weights[2], self.groups)
        if torch.jit.is_scripting():
            return scale[:, :, None, None] * self.norm(self.output(x))
        return self._scaled_output(x, scale)

    @torch.jit.ignore()
    def _scaled_output(self, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        norm = self.norm
        if can_fold(norm, x) and not is_forced("plain") and folds_cheaply(x.shape[1], self.groups, *x.shape[2:]):
            return folded_output(x, scale, self.output.weight, norm, self.groups)
        return scale[:, :, None, None] * self.norm(self.output(x))
