"""Cosine attention between channels: Q and K have rows of unit length; a learned temperature replaces 1 / sqrt(s).

    Scale = sigmoid( softmax(t * Q^ K^^T) V ),   Q^_i = Q_i / |Q_i|,  K^_j = K_j / |K_j|

Q, K and V are the paper's (section 3.2.3), normalised over the positions as in XCiT's cross-covariance attention
(El-Nouby et al. 2021). The logits lie within -t .. t whatever the weights are, so

* softmax is not uniform before training, unlike in the paper's unit, whose logits timm's initialisation makes about 0;
* no maximum needs to be subtracted: with t at most ``LIMIT``, the exponentials and the sums of their products with V
  fit in float32.

It is streamed like the package's unit: the ch x ch map is computed in blocks, forward and backward, and never stored.
The logits of a block are a product a b of ordinary differentiable factors, on one of two paths of ``attention_path``:

* ``product``: a = t Q^ (ch, s), b = K^^T (s, ch);
* ``gram``: with G = x x^T, a = t Wq / |Q| (groups, ch / groups, c), b = the rows of G Wk^T / |K| that belong to
  the group of Wq (groups, c, ch); the norms come from G too: |Q_i|^2 = Wq_i G Wq_i^T.

It supports float32 and float64, but no autocast.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from timm_landmark.layers import ChannelAttention2d, choose_path
from timm_landmark.layers.attention_path import is_forced

START = 20.0
LIMIT = 50.0  # 2048 * exp(50) = 1e25, and exp(-50) = 2e-22
BLOCK_ELEMENTS = 2**19  # logits per block: 2 MB, which stay in cache from the product to the last pass
SMALL_MAP = 64  # positions up to which Q and K beat x x^T: more multiply-adds, but fewer and larger products
EPSILON = 1e-24  # lower bound of squared norms: a row of zeros stays zero

Tensors = tuple[torch.Tensor, ...]


def cosine_scale_reference(
    x: torch.Tensor, wq: torch.Tensor, wk: torch.Tensor, wv: torch.Tensor, temperature: torch.Tensor, groups: int
) -> torch.Tensor:
    """Scale (B, ch) by the formula, the reference for the streamed paths; arguments as of :func:`cosine_scale`."""
    attention = torch.softmax(cosine_logits(x, wq, wk, temperature, groups), dim=-1)
    v = F.adaptive_avg_pool2d(F.conv2d(x, wv, groups=groups), 1).flatten(2)  # (B, ch, 1)
    return torch.sigmoid(attention @ v).flatten(1)  # (B, ch, ch) @ (B, ch, 1) -> (B, ch)


def cosine_logits(
    x: torch.Tensor, wq: torch.Tensor, wk: torch.Tensor, temperature: torch.Tensor, groups: int
) -> torch.Tensor:
    """The logits (B, ch, ch) of :func:`cosine_scale_reference`."""
    q = F.normalize(F.conv2d(x, wq, groups=groups).flatten(2), dim=2)  # (B, ch, s)
    k = F.normalize(F.conv2d(x, wk, groups=groups).flatten(2), dim=2)
    return temperature * q @ k.transpose(1, 2)  # (B, ch, s) @ (B, s, ch)


def cosine_scale(
    x: torch.Tensor,
    wq: torch.Tensor,
    wk: torch.Tensor,
    wv: torch.Tensor,
    temperature: torch.Tensor,
    groups: int,
    path: str,
) -> torch.Tensor:
    """Scale of cosine attention, streamed.

    Args:
        x: The unit's input, shape (B, C, H, W).
        wq: Weight of the query projection, shape (ch, C / groups, 1, 1).
        wk: The same for the key.
        wv: The same for the value.
        temperature: The temperature t, a scalar tensor, at most ``LIMIT``.
        groups: Number of groups.
        path: ``product`` or ``gram``.

    Returns:
        Scale, shape (B, ch).
    """
    x = x.flatten(2)
    wq, wk, wv = (w.view(groups, -1, w.shape[1]) for w in (wq, wk, wv))  # (g, ch/g, c)
    v = (wv @ x.mean(2).view(x.shape[0], groups, -1, 1)).flatten(1)  # V = CV(AP(x)), (B, ch)
    return torch.sigmoid(_Attend.apply(x, wq, wk, v, temperature, path)[0])


def _factors(base: torch.Tensor, wq: torch.Tensor, wk: torch.Tensor, temperature: torch.Tensor, path: str) -> Tensors:
    """Factors of the logits (to base two) of n images: a (n, parts, rows, d), b (n, parts, d, ch).

    ``base`` is x (n, C, s) or, on the ``gram`` path, x x^T (n, C, C).
    """
    n, in_chs, _ = base.shape
    groups, rows, c = wq.shape
    temperature = temperature / math.log(2)
    if path == "product":
        q, k = ((w @ base.view(n, groups, c, -1)).flatten(1, 2).unsqueeze(1) for w in (wq, wk))  # (n, 1, ch, s)
        of_q, of_k = (_rate(t.square().sum(3, keepdim=True)) for t in (q, k))
        return q * (temperature * of_q), (k * of_k).transpose(2, 3)
    own = base.view(n, groups, c, groups, c).diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2)  # (n, g, c, c)
    of_q, of_k = (_rate(((w @ own) * w).sum(3, keepdim=True)) for w in (wq, wk))  # (n, g, ch/g, 1)
    kx = (wk * of_k) @ base.view(n, groups, c, in_chs)  # (n, g, ch/g, c) @ (n, g, c, C) -> (n, g, ch/g, C)
    b = kx.view(n, groups * rows, groups, c).permute(0, 2, 3, 1)  # (n, g, c, ch)
    return wq * (temperature * of_q), b


def _rate(square: torch.Tensor) -> torch.Tensor:
    return square.clamp_min(EPSILON).rsqrt()


def _images(batch: int, ch: int, path: str) -> Iterator[slice]:
    """Slices of the batch whose logits make one block; single images if one image makes more than that.

    On the ``gram`` path the factors of one image are views, those of several are copies, which is only faster if they
    are small.
    """
    step = max(1, BLOCK_ELEMENTS // (8 if path == "gram" else 1) // (ch * ch))
    return (slice(first, first + step) for first in range(0, batch, step))


def _blocks(a: torch.Tensor, ch: int) -> Iterator[tuple[slice, slice]]:
    """Slices of the parts and rows of a (n, parts, rows, d): rows of a single part, or whole parts."""
    n, parts, rows, _ = a.shape
    at_once = max(1, BLOCK_ELEMENTS // (n * ch))
    part_step = max(1, at_once // rows)
    row_step = rows if parts > 1 else min(rows, at_once)
    for part in range(0, parts, part_step):
        for row in range(0, rows, row_step):
            yield slice(part, part + part_step), slice(row, row + row_step)


class _Attend(torch.autograd.Function):
    """softmax(a b) V, one or a few images at a time; the backward pass recomputes factors and blocks.

    With P the softmax and o = P V: dA_ij = do_i P_ij (v_j - o_i), dv_j = sum_i P_ij do_i, da = dA b^T, db = a^T dA.
    Autograd computes the gradients of x, Wq, Wk and the temperature from those of the factors.
    """

    @staticmethod
    def forward(
        x: torch.Tensor, wq: torch.Tensor, wk: torch.Tensor, v: torch.Tensor, temperature: torch.Tensor, path: str
    ) -> Tensors:
        """The attended value and log2 of the sums of rows, each (B, ch); and x x^T, empty on the ``product`` path."""
        gram = x @ x.transpose(1, 2) if path == "gram" else x.new_empty(0)
        base = gram if path == "gram" else x
        o, lse = torch.empty_like(v), torch.empty_like(v)
        for images in _images(*v.shape, path=path):
            a, b = _factors(base[images], wq, wk, temperature, path)
            v_and_one = torch.stack((v[images], torch.ones_like(v[images])), 1).unsqueeze(1)  # (n, 1, 2, ch)
            o_n, lse_n = (t[images].view(a.shape[:3]) for t in (o, lse))
            for part, row in _blocks(a, v.shape[1]):
                e = (a[:, part, row] @ b[:, part]).exp2_()
                weighted, total = (v_and_one @ e.transpose(2, 3)).unbind(2)  # both sums in one pass over the block
                o_n[:, part, row] = weighted / total
                lse_n[:, part, row] = total.log2()
        return o, lse, gram

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensors) -> None:
        *tensors, ctx.path = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*tensors, *output)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # the decorator hides the parameter's name
        ctx: Any, *grads: torch.Tensor
    ) -> tuple:
        do = grads[0]  # the other outputs are not differentiable
        x, wq, wk, v, temperature, o, lse, gram = ctx.saved_tensors
        base = gram if ctx.path == "gram" else x
        dbase, dv = torch.empty_like(base), torch.zeros_like(v)
        shared = [torch.zeros_like(t) for t in (wq, wk, temperature)]
        for images in _images(*v.shape, path=ctx.path):
            inputs = [t.detach().requires_grad_() for t in (base[images], wq, wk, temperature)]
            with torch.enable_grad():
                factors = _factors(*inputs, path=ctx.path)
            a, b = (t.detach() for t in factors)
            v_n = v[images, None, None]
            o_n, lse_n, do_n = (t[images].reshape(*a.shape[:3], 1) for t in (o, lse, do))
            da, db = torch.empty_like(a), b.new_zeros(b.shape)  # contiguous, which b is not
            # log2 P = a b - lse in one product: lse is one more column of a, for a row of ones below b
            a_lse, b_one = torch.cat((a, -lse_n), 3), torch.cat((b, torch.ones_like(b[:, :, :1])), 2)
            do_row = do_n.transpose(2, 3)
            a_do = a * do_n * math.log(2)  # the logits are to base two
            for part, row in _blocks(a, v.shape[1]):
                p = (a_lse[:, part, row] @ b_one[:, part]).exp2_()
                dv[images] += (do_row[:, part, :, row] @ p).sum((1, 2))
                d_logits = p.mul_(v_n - o_n[:, part, row])  # dA without the factor do_i of the row
                # da^T = b dA^T: a product with a short first factor is faster than one with a narrow second factor
                da[:, part, row] = (b[:, part] @ d_logits.transpose(2, 3)).transpose(2, 3)
                db[:, part] += a_do[:, part, row].transpose(2, 3) @ d_logits
            da *= do_n * math.log(2)
            dbase[images], *shares = torch.autograd.grad(factors, inputs, (da, db))
            for total, share in zip(shared, shares, strict=True):
                total += share
        dwq, dwk, dt = shared
        dx = (dbase + dbase.transpose(1, 2)) @ x if ctx.path == "gram" else dbase
        return dx, dwq, dwk, dv, dt, None


class CosineAttention2d(ChannelAttention2d):
    """The paper's unit with cosine attention, which has one more parameter: the logarithm of the temperature.

    The logarithm is learned so that Adam changes the temperature in proportion: with a learning rate of 0.0005, 100
    steps change it by at most about 5 %.
    """

    def __init__(self, in_chs: int, out_chs: int, groups: int = 32) -> None:
        super().__init__(in_chs, out_chs, groups)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(START)))

    def temperature(self) -> torch.Tensor:
        """The temperature, at most ``LIMIT``."""
        return self.log_temperature.exp().clamp(max=LIMIT)

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """The logits (B, ch, ch), for measurements."""
        return cosine_logits(x, self.query.weight, self.key.weight, self.temperature(), self.groups)

    def scale(self, x: torch.Tensor) -> torch.Tensor:
        """Scale (B, ch); tracing and ``force_path("plain")`` use the reference."""
        weights = (self.query.weight, self.key.weight, self.value.weight)
        path = choose_path(x.shape[1], weights[0].shape[0], self.groups, *x.shape[2:])
        if path == "gram" and x.shape[2] * x.shape[3] <= SMALL_MAP and not is_forced("gram"):
            path = "product"
        tracing = torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]  # public, but not in __all__
        if tracing or path == "plain":
            return cosine_scale_reference(x, *weights, self.temperature(), self.groups)
        return cosine_scale(x, *weights, self.temperature(), self.groups, path)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scale * norm(output(x)), shape (B, in_chs, H, W) -> (B, out_chs, H, W)."""
        return self._scaled_output(x, self.scale(x))
