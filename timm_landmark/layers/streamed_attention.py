"""softmax(Q K^T / sqrt(s)) V of section 3.2.3 as two custom operators that never store the ch x ch map.

Both streamed paths of ``attention_path`` compute logits A = a b, with these factors for one image:

* ``product``: a = Q (1, ch, s), b = K^T (1, s, ch);
* ``gram``: a = Wq (groups, ch / groups, c), b = the rows of x K^T that belong to each group's Wq (groups, c, ch).

As V has one dimension, row i of softmax(A) V needs two sums, l_i = sum_j e_ij and sum_j e_ij v_j with
e_ij = exp(A_ij - max_j A_ij). A block of rows is computed, used while it is in the cache, and overwritten. The backward
pass recomputes it from the saved logarithm of the row sum, P_ij = exp(A_ij - lse_i); with o = P v,

    dA_ij = do_i P_ij (v_j - o_i),   dv_j = sum_i P_ij do_i,   da = dA b^T,   db = a^T dA.

Softmax and all sums run in float32 (float64 for float64 input), with powers of two: log2(e) / sqrt(s) is folded into
Wq. For bfloat16 input the large products use bfloat16: x x^T in ``gram``, the logits and their gradients in
``product``. Before the logits are rounded, the mean of all keys is subtracted from the keys.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch

# Elements of one block of rows. CPU: 8 MB, which fits into last-level caches and is enough work to hide the cost of
# starting threads. GPU: 1 GB, so that one large product replaces many (chosen by size; not measured on a GPU).
# Every pass over a block is an operator that splits it among threads along the first dimension, as the product does, so
# each thread finds its own data in its cache. A matrix-vector product splits it differently and made the next product
# up to three times as slow.
BLOCK_ELEMENTS = {"cpu": 2**21, "other": 2**28}

Tensors = tuple[torch.Tensor, ...]


def compute_dtype(x: torch.Tensor) -> torch.dtype:
    """The dtype of sums: float64 for float64 input, else float32, so never half precision."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def product_dtype(x: torch.Tensor) -> torch.dtype:
    """The dtype of the large products: bfloat16 for bfloat16 (same range as float32), else the dtype of the sums."""
    return torch.bfloat16 if x.dtype == torch.bfloat16 else compute_dtype(x)


def _prepare(x: torch.Tensor, wq: torch.Tensor, wk: torch.Tensor, wv: torch.Tensor, groups: int) -> Tensors:
    """Prepares the input and weights for both passes.

    Returns:
        The input (B, C, s) in the dtype of the products; Wq, Wk, Wv (groups, ch / groups, c) with log2(e) / sqrt(s)
        folded into Wq; and the pooled input (B, groups, c, 1).
    """
    wq, wk, wv = (w.to(compute_dtype(x)).view(groups, -1, w.shape[1]) for w in (wq, wk, wv))
    pooled = x.mean((2, 3), dtype=wv.dtype).view(x.shape[0], groups, x.shape[1] // groups, 1)
    x = x.flatten(2).to(product_dtype(x))
    return x, wq * _temperature(x), wk, wv, pooled


def _temperature(x: torch.Tensor) -> float:
    return 1 / (math.log(2) * math.sqrt(x.shape[2]))


def _factors(x: torch.Tensor, gram: torch.Tensor, wq: torch.Tensor, wk: torch.Tensor, path: str, parts: int) -> Tensors:
    """The factors of the logits of n images, split by rows into parts: a (n * parts, rows, d), b (n * parts, d, ch)."""
    n, in_chs, area = x.shape
    groups, rows, c = wq.shape
    if path == "gram":
        kx = wk @ gram.to(wk.dtype).view(n, groups, c, in_chs)  # (g, ch/g, c) @ (n, g, c, C) -> (n, g, ch/g, C): K x^T
        b = kx.view(n, groups * rows, groups, c).permute(0, 2, 3, 1)  # (n, g, c, ch): the rows of x K^T, by group
        return wq.repeat(n, 1, 1), b.reshape(n * groups, c, groups * rows)
    maps = x.view(n, groups, c, area).to(wq.dtype)
    q = (wq @ maps).view(n * parts, -1, area)  # (g, ch/g, c) @ (n, g, c, s) -> (n, g, ch/g, s)
    k = (wk @ maps).view(n, 1, groups * rows, area)
    if x.dtype != k.dtype:  # subtracting the keys' mean changes neither softmax nor the gradients: rows of dA sum to 0
        k = k - k.mean(2, keepdim=True)
    return q.to(x.dtype), k.transpose(2, 3).to(x.dtype).contiguous().expand(-1, parts, -1, -1).flatten(0, 1)


def _factors_backward(
    x: torch.Tensor,
    gram: torch.Tensor,
    wq: torch.Tensor,
    wk: torch.Tensor,
    path: str,
    da: torch.Tensor,
    db: torch.Tensor,
) -> Tensors:
    """Computes the gradients of x, Wq and Wk from those of the factors."""
    n, in_chs, area = x.shape
    groups, rows, c = wq.shape
    if path == "gram":
        dkx = db.view(n, in_chs, groups, rows).permute(0, 2, 3, 1)  # (n, g, ch/g, C)
        dwk = dkx @ gram.to(wk.dtype).view(n, groups, c, in_chs).transpose(2, 3)  # (n, g, ch/g, C) @ (n, g, C, c)
        dgram = (wk.transpose(1, 2) @ dkx).view(n, in_chs, in_chs)  # (g, c, ch/g) @ (n, g, ch/g, C)
        return (dgram + dgram.transpose(1, 2)).to(x.dtype) @ x, da.view(n, groups, rows, c).sum(0), dwk.sum(0)
    da, db, x = (t.to(wq.dtype) for t in (da, db, x.view(n, groups, c, area)))
    dq = da.reshape(n, groups, rows, area)
    dk = db.view(n, -1, area, groups * rows).sum(1).transpose(1, 2).reshape(n, groups, rows, area)
    dx = wq.transpose(1, 2) @ dq + wk.transpose(1, 2) @ dk  # (g, c, ch/g) @ (n, g, ch/g, s) -> (n, g, c, s)
    x = x.transpose(2, 3)
    return dx.view(n, in_chs, area), (dq @ x).sum(0), (dk @ x).sum(0)


class _Blocks:
    """Splits the work into blocks of about ``BLOCK_ELEMENTS`` logits and owns the buffers.

    A block contains several whole images if they are small, else some rows of one image. The rows are split into parts
    so that each thread computes its own product, because one shallow product is not parallelized well. In the ``gram``
    path the parts are the groups; in the ``product`` path there are as many parts as threads.
    """

    def __init__(self, x: torch.Tensor, ch: int, groups: int, path: str, buffers: int) -> None:
        on_cpu = x.device.type == "cpu"
        limit = BLOCK_ELEMENTS["cpu" if on_cpu else "other"]
        self.batch, self.ch, self.path = x.shape[0], ch, path
        # Images per block. In the gram path the factors of one image are views and those of several are copies, which
        # is faster only for small images.
        several = limit // 8 if on_cpu and path == "gram" else limit
        self.step = max(1, min(several // (ch * ch), self.batch))
        threads = torch.get_num_threads() if on_cpu else 1
        self.parts = groups if path == "gram" else _divisor(ch, at_most=-(-threads // self.step))  # of one image
        self.rows_at_once = max(self.parts, min(limit // ch, self.step * ch))
        self.buffers = x.new_empty(buffers, self.rows_at_once * ch, dtype=compute_dtype(x))
        # Logits and their gradients in the dtype of the products, if it differs from that of the sums.
        halved = path == "product" and x.dtype != self.buffers.dtype
        self.half = x.new_empty(self.rows_at_once * ch) if halved else None

    def images(self) -> Iterator[slice]:
        """Yields slices of the batch."""
        for first in range(0, self.batch, self.step):
            yield slice(first, min(first + self.step, self.batch))

    def rows(self, a: torch.Tensor) -> Iterator[tuple[slice, slice]]:
        """Yields slices of the first two dimensions of a (n * parts, rows, d)."""
        parts, rows, _ = a.shape
        part_step = min(parts, max(1, self.rows_at_once // rows)) if self.path == "gram" else parts
        row_step = min(rows, max(1, self.rows_at_once // part_step))
        for part in range(0, parts, part_step):
            for row in range(0, rows, row_step):
                yield slice(part, part + part_step), slice(row, row + row_step)

    def view(self, buffer: torch.Tensor, parts: int, rows: int) -> torch.Tensor:
        """Returns a buffer as (parts, rows, ch)."""
        return buffer[: parts * rows * self.ch].view(parts, rows, self.ch)

    def logits(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Computes a b in the first buffer, (parts, rows, d) @ (parts, d, ch) -> (parts, rows, ch)."""
        out = self.view(self.buffers[0], *a.shape[:2])
        if self.half is None:
            return torch.bmm(a, b, out=out)
        return out.copy_(torch.bmm(a, b, out=self.view(self.half, *a.shape[:2])))

    def factor(self, block: torch.Tensor) -> torch.Tensor:
        """Returns a block (parts, rows, ch) in the dtype of the products."""
        return block if self.half is None else self.view(self.half, *block.shape[:2]).copy_(block)


def _divisor(number: int, at_most: int) -> int:
    """The largest divisor of ``number`` that is at most ``at_most``."""
    return next(d for d in range(min(number, at_most), 0, -1) if number % d == 0)


@torch.library.custom_op("timm_landmark::channel_attend", mutates_args=())
def channel_attend(
    x: torch.Tensor, wq: torch.Tensor, wk: torch.Tensor, wv: torch.Tensor, groups: int, path: str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Computes softmax(Q K^T / sqrt(s)) V of section 3.2.3 block by block.

    Args:
        x: The unit's input, shape (B, C, H, W).
        wq: Weight of the query projection, shape (ch, C / groups, 1, 1).
        wk: The same for the key.
        wv: The same for the value.
        groups: Number of groups.
        path: ``product`` or ``gram``.

    Returns:
        The attended value (B, ch) in float32 (float64 for float64 input). For the backward pass: log2 of the row sums
        (B, ch), and x x^T (B, C, C) in the dtype of the products, which is empty unless the path is ``gram``.
    """
    with torch.autocast(x.device.type, enabled=False):
        x, wq, wk, wv, pooled = _prepare(x, wq, wk, wv, groups)
        batch, ch = x.shape[0], wv.shape[0] * wv.shape[1]
        v = (wv @ pooled).view(batch, ch)  # V = CV(AP(x))
        gram = x @ x.transpose(1, 2) if path == "gram" else x.new_empty(batch, 0)
        o, lse = torch.empty_like(v), torch.empty_like(v)
        blocks = _Blocks(x, ch, groups, path, buffers=1)
        for images in blocks.images():
            a, b = _factors(x[images], gram[images], wq, wk, path, blocks.parts)
            v_n, (o_n, lse_n) = v[images].unsqueeze(1), (t[images].view(a.shape[:2]) for t in (o, lse))
            for part, row in blocks.rows(a):
                e = blocks.logits(a[part, row], b[part])
                top = e.amax(2, keepdim=True)
                total = e.sub_(top).exp2_().sum(2)
                _by_image(e, v_n).mul_(v_n)
                torch.div(e.sum(2), total, out=o_n[part, row])
                torch.add(total.log2_(), top.squeeze(2), out=lse_n[part, row])
    return o, lse, gram


def _by_image(t: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Views a block (n * parts, rows, d) as (n, parts * rows, d): parts of one image, or all parts of n images."""
    return t.view(like.shape[0], -1, t.shape[2])


@channel_attend.register_fake
def _(x: torch.Tensor, wq: torch.Tensor, wk: torch.Tensor, wv: torch.Tensor, groups: int, path: str) -> Tensors:
    batch, in_chs = x.shape[:2]
    sums = x.new_empty((batch, wq.shape[0]), dtype=compute_dtype(x))
    gram = x.new_empty((batch, in_chs, in_chs) if path == "gram" else (batch, 0), dtype=product_dtype(x))
    return sums, torch.empty_like(sums), gram


@torch.library.custom_op("timm_landmark::channel_attend_backward", mutates_args=())
def channel_attend_backward(
    do: torch.Tensor,
    x: torch.Tensor,
    wq: torch.Tensor,
    wk: torch.Tensor,
    wv: torch.Tensor,
    o: torch.Tensor,
    lse: torch.Tensor,
    gram: torch.Tensor,
    groups: int,
    path: str,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Computes the gradients of x, wq, wk and wv, in their shapes and dtypes, from that of the attended value."""
    inputs = (x, wq, wk, wv)
    with torch.autocast(x.device.type, enabled=False):
        x, wq, wk, wv, pooled = _prepare(x, wq, wk, wv, groups)
        batch, in_chs, area = x.shape
        v = (wv @ pooled).flatten(1)
        dv, dwq, dwk = (torch.zeros_like(t) for t in (v, wq, wk))
        dx = torch.empty_like(x, memory_format=torch.contiguous_format)  # in any layout of x, as compilers are told
        blocks = _Blocks(x, v.shape[1], groups, path, buffers=2)
        for images in blocks.images():
            a, b = _factors(x[images], gram[images], wq, wk, path, blocks.parts)
            v_n = v[images].unsqueeze(1)
            o_n, lse_n, do_n = (t[images].view(*a.shape[:2], 1) for t in (o, lse, do))
            a_do = a * (do_n * math.log(2)).to(a.dtype)  # the logits are powers of two
            dat, db = a.new_empty(a.shape[0], a.shape[2], a.shape[1]), b.new_zeros(b.shape)
            for part, row in blocks.rows(a):
                a_block, b_block, do_block = a[part, row], b[part], do_n[part, row]
                p = blocks.logits(a_block, b_block).sub_(lse_n[part, row]).exp2_()
                dv[images] += _by_image(torch.bmm(do_block.transpose(1, 2), p), v_n).sum(1)
                other = blocks.view(blocks.buffers[1], *p.shape[:2])
                torch.sub(v_n, _by_image(o_n[part, row].contiguous(), v_n), out=_by_image(other, v_n))
                d_logits = blocks.factor(p.mul_(other))  # dA without the row's factor do_i
                # da^T = b dA^T: a short first factor is faster than a narrow second one
                dat[part, :, row] = torch.bmm(b_block, d_logits.transpose(1, 2))
                db[part].baddbmm_(a_do[part, row].transpose(1, 2), d_logits)
            da = dat.transpose(1, 2) * (do_n * math.log(2)).to(a.dtype)
            dx[images], dwq_n, dwk_n = _factors_backward(x[images], gram[images], wq, wk, path, da, db)
            dwq += dwq_n
            dwk += dwk_n
        dv = dv.view(batch, groups, wv.shape[1], 1)
        dx += ((wv.transpose(1, 2) @ dv).view(batch, in_chs, 1) / area).to(dx.dtype)
        grads = dx, dwq * _temperature(x), dwk, (dv @ pooled.transpose(2, 3)).sum(0)
    dx, dwq, dwk, dwv = (g.view(t.shape).to(t.dtype) for g, t in zip(grads, inputs, strict=True))
    return dx, dwq, dwk, dwv


@channel_attend_backward.register_fake
def _(
    do: torch.Tensor,
    x: torch.Tensor,
    wq: torch.Tensor,
    wk: torch.Tensor,
    wv: torch.Tensor,
    o: torch.Tensor,
    lse: torch.Tensor,
    gram: torch.Tensor,
    groups: int,
    path: str,
) -> Tensors:
    return tuple(torch.empty_like(t, memory_format=torch.contiguous_format) for t in (x, wq, wk, wv))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
    x, wq, wk, wv, ctx.groups, ctx.path = inputs
    ctx.save_for_backward(x, wq, wk, wv, *output)
    ctx.set_materialize_grads(False)


def _autograd(ctx: Any, do: torch.Tensor | None, *_: None) -> tuple[torch.Tensor | None, ...]:
    if do is None:
        return (None,) * 6
    return *channel_attend_backward(do.contiguous(), *ctx.saved_tensors, ctx.groups, ctx.path), None, None


channel_attend.register_autograd(_autograd, setup_context=_setup_context)
