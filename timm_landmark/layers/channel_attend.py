"""softmax(Q K^T / sqrt(s)) V of section 3.2.3 without the ch x ch map: two operators, forward and backward, stream it.

Both forms of ``attention_path`` end in logits A = a b, with the factors of one image

* ``product``: a = Q (1, ch, s), b = K^T (1, s, ch);
* ``gram``: a = Wq (groups, ch / groups, c), b = the rows of x K^T that each group's Wq meets (groups, c, ch).

As V has one dimension, row i of softmax(A) V needs two sums, l_i = sum_j e_ij and sum_j e_ij v_j with
e_ij = exp(A_ij - max_j A_ij): a block of rows is made, used while it is in cache, and overwritten. The backward pass
makes it again from the kept logarithm of the row's sum, P_ij = exp(A_ij - lse_i); with o = P v,

    dA_ij = do_i P_ij (v_j - o_i),   dv_j = sum_i P_ij do_i,   da = dA b^T,   db = a^T dA.

All of it runs in float32 (float64 for float64 input), in powers of two: log2(e) / sqrt(s) is folded into Wq.
"""

import math
from collections.abc import Iterator

import torch

# Elements of one block of rows. CPU: 4 MB, which last-level caches hold, and enough work to hide what it costs to start
# threads on it. GPU: 1 GB, so that one large product does the work of many (chosen by size; not measured on a GPU).
BLOCK_ELEMENTS = {"cpu": 2**20, "other": 2**28}

Tensors = tuple[torch.Tensor, ...]


def compute_dtype(x: torch.Tensor) -> torch.dtype:
    """float64 for float64, float32 for everything else: sums never run in half precision."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _prepare(x: torch.Tensor, wq: torch.Tensor, wk: torch.Tensor, wv: torch.Tensor, groups: int) -> Tensors:
    """Input as (B, C, s) and weights as (groups, ch / groups, c) in the compute dtype; log2(e) / sqrt(s) is in Wq."""
    dtype = compute_dtype(x)
    x = x.flatten(2).to(dtype)
    wq, wk, wv = (w.to(dtype).view(groups, -1, w.shape[1]) for w in (wq, wk, wv))
    return x, wq * _temperature(x), wk, wv


def _temperature(x: torch.Tensor) -> float:
    return 1 / (math.log(2) * math.sqrt(x.shape[2]))


def _factors(x: torch.Tensor, gram: torch.Tensor, wq: torch.Tensor, wk: torch.Tensor, path: str) -> Tensors:
    """The factors of the logits of n images, R = 1 or ``groups`` to an image: a (n * R, rows, d), b (n * R, d, ch)."""
    n, in_chs, area = x.shape
    groups, rows, c = wq.shape
    if path == "gram":
        kx = wk @ gram.view(n, groups, c, in_chs)  # (g, ch/g, c) @ (n, g, c, C) -> (n, g, ch/g, C): K x^T
        b = kx.view(n, groups * rows, groups, c).permute(0, 2, 3, 1)  # (n, g, c, ch): the rows of x K^T, by group
        return wq.repeat(n, 1, 1), b.reshape(n * groups, c, groups * rows)
    x = x.view(n, groups, c, area)
    q = (wq @ x).view(n, groups * rows, area)  # (g, ch/g, c) @ (n, g, c, s) -> (n, g, ch/g, s)
    k = (wk @ x).view(n, groups * rows, area)
    return q, k.transpose(1, 2).contiguous()


def _factors_backward(
    x: torch.Tensor,
    gram: torch.Tensor,
    wq: torch.Tensor,
    wk: torch.Tensor,
    path: str,
    da: torch.Tensor,
    db: torch.Tensor,
) -> Tensors:
    """Gradients of x, Wq and Wk from those of the factors."""
    n, in_chs, area = x.shape
    groups, rows, c = wq.shape
    if path == "gram":
        dkx = db.view(n, in_chs, groups, rows).permute(0, 2, 3, 1)  # (n, g, ch/g, C)
        dwk = dkx @ gram.view(n, groups, c, in_chs).transpose(2, 3)  # (n, g, ch/g, C) @ (n, g, C, c)
        dgram = (wk.transpose(1, 2) @ dkx).view(n, in_chs, in_chs)  # (g, c, ch/g) @ (n, g, ch/g, C)
        return (dgram + dgram.transpose(1, 2)) @ x, da.view(n, groups, rows, c).sum(0), dwk.sum(0)
    x = x.view(n, groups, c, area)
    dq = da.view(n, groups, rows, area)
    dk = db.transpose(1, 2).reshape(n, groups, rows, area)
    dx = wq.transpose(1, 2) @ dq + wk.transpose(1, 2) @ dk  # (g, c, ch/g) @ (n, g, ch/g, s) -> (n, g, c, s)
    x = x.transpose(2, 3)
    return dx.view(n, in_chs, area), (dq @ x).sum(0), (dk @ x).sum(0)


class _Blocks:
    """How the work is cut into blocks of about ``BLOCK_ELEMENTS`` logits; with the buffers.

    A block is a part of some images' rows. As many images at once as there are threads give each thread a product of
    its own, as one product of little depth is shared badly; in the ``gram`` form the groups of one image do that.
    """

    def __init__(self, x: torch.Tensor, ch: int, path: str, buffers: int) -> None:
        limit = BLOCK_ELEMENTS["cpu" if x.device.type == "cpu" else "other"]
        self.batch, self.ch = x.shape[0], ch
        self.logit_rows = max(1, limit // ch)  # rows in one block
        self.step = min(max(torch.get_num_threads() if path == "product" else 1, limit // (ch * ch)), self.batch)
        self.buffers = x.new_empty(buffers, max(self.step, self.logit_rows) * ch)

    def images(self) -> Iterator[slice]:
        """Slices of the batch."""
        for first in range(0, self.batch, self.step):
            yield slice(first, min(first + self.step, self.batch))

    def rows(self, a: torch.Tensor, several: bool) -> Iterator[tuple[slice, slice]]:
        """Slices of the first two dimensions of a (N, rows, d); of several images always the whole first."""
        parts, rows, _ = a.shape
        part_step = parts if several else min(parts, max(1, self.logit_rows // rows))
        row_step = min(rows, max(1, self.logit_rows // part_step))
        for part in range(0, parts, part_step):
            for row in range(0, rows, row_step):
                yield slice(part, part + part_step), slice(row, row + row_step)

    def view(self, index: int, parts: int, rows: int) -> torch.Tensor:
        """A buffer as (parts, rows, ch)."""
        return self.buffers[index, : parts * rows * self.ch].view(parts, rows, self.ch)


@torch.library.custom_op("timm_landmark::channel_attend", mutates_args=())
def channel_attend(
    x: torch.Tensor, wq: torch.Tensor, wk: torch.Tensor, wv: torch.Tensor, groups: int, path: str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """softmax(Q K^T / sqrt(s)) V of section 3.2.3, streamed.

    Args:
        x: The unit's input, shape (B, C, H, W).
        wq: Weight of the query projection, shape (ch, C / groups, 1, 1).
        wk: The same for the key.
        wv: The same for the value.
        groups: Number of groups.
        path: ``product`` or ``gram``.

    Returns:
        The attended value (B, ch) in float32 (float64 for float64 input); and for the backward pass log2 of the rows'
        sums (B, ch) and x x^T (B, C, C), which is empty unless the path is ``gram``.
    """
    with torch.autocast(x.device.type, enabled=False):
        x, wq, wk, wv = _prepare(x, wq, wk, wv, groups)
        batch, ch = x.shape[0], wv.shape[0] * wv.shape[1]
        v = (wv @ x.mean(2).view(batch, groups, -1, 1)).view(batch, ch)  # V = CV(AP(x))
        gram = x @ x.transpose(1, 2) if path == "gram" else x.new_empty(batch, 0)
        o, lse = x.new_empty(batch, ch), x.new_empty(batch, ch)
        blocks = _Blocks(x, ch, path, buffers=1)
        for images in blocks.images():
            a, b = _factors(x[images], gram[images], wq, wk, path)
            v_n, (o_n, lse_n) = v[images], (t[images].view(a.shape[:2]) for t in (o, lse))
            for part, row in blocks.rows(a, several=x[images].shape[0] > 1):
                a_block = a[part, row]
                e = torch.bmm(a_block, b[part], out=blocks.view(0, *a_block.shape[:2]))
                top = e.amax(2, keepdim=True)
                total = e.sub_(top).exp2_().sum(2)
                torch.div(_weigh(e, v_n), total, out=o_n[part, row])
                torch.add(total.log2_(), top.squeeze(2), out=lse_n[part, row])
    return o, lse, gram


def _weigh(e: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """sum_j e_ij v_j: (parts, rows, ch), (n, ch) -> (parts, rows)."""
    ch = v.shape[1]
    if e.device.type == "cpu":  # matrix-vector products: many times faster there than products with one column
        return torch.cat([torch.mv(e_n, v_n) for e_n, v_n in zip(e.view(v.shape[0], -1, ch), v, strict=True)]).view(
            e.shape[:2]
        )
    return torch.bmm(e.view(v.shape[0], -1, ch), v.unsqueeze(2)).view(e.shape[:2])


@channel_attend.register_fake
def _(x: torch.Tensor, wq: torch.Tensor, wk: torch.Tensor, wv: torch.Tensor, groups: int, path: str) -> Tensors:
    batch, in_chs = x.shape[:2]
    new = {"dtype": compute_dtype(x)}
    gram = x.new_empty((batch, in_chs, in_chs) if path == "gram" else (batch, 0), **new)
    return x.new_empty((batch, wq.shape[0]), **new), x.new_empty((batch, wq.shape[0]), **new), gram


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
    """Gradients of x, wq, wk and wv, each in its shape and dtype, from that of the attended value."""
    inputs = (x, wq, wk, wv)
    with torch.autocast(x.device.type, enabled=False):
        x, wq, wk, wv = _prepare(x, wq, wk, wv, groups)
        batch, in_chs, area = x.shape
        ch = wv.shape[0] * wv.shape[1]
        pooled = x.mean(2).view(batch, groups, -1, 1)
        v = (wv @ pooled).view(batch, ch)
        dx, dv, dwq, dwk = torch.empty_like(x), torch.zeros_like(v), torch.zeros_like(wq), torch.zeros_like(wk)
        blocks = _Blocks(x, ch, path, buffers=2)
        for images in blocks.images():
            a, b = _factors(x[images], gram[images], wq, wk, path)
            o_n, lse_n, do_n = (t[images].view(*a.shape[:2], 1) for t in (o, lse, do))
            dat, db = a.new_empty(a.shape[0], a.shape[2], a.shape[1]), b.new_zeros(b.shape)
            for part, row in blocks.rows(a, several=x[images].shape[0] > 1):
                a_block, b_block, do_block = a[part, row], b[part], do_n[part, row]
                size = a_block.shape[:2]
                p = torch.bmm(a_block, b_block, out=blocks.view(0, *size)).sub_(lse_n[part, row]).exp2_()
                dv[images] += _weigh_columns(p, do_block, v[images])
                spread = _outer_difference(v[images], o_n[part, row], out=blocks.view(1, *size))
                d_logits = p.mul_(spread)  # dA but for the row's factor do_i
                do_block = do_block * math.log(2)  # the logits are powers of two
                # da^T = b dA^T: a product with a short first factor, not with a narrow second one, is the faster
                dat[part, :, row] = torch.bmm(b_block, d_logits.transpose(1, 2))
                db[part].baddbmm_((a_block * do_block).transpose(1, 2), d_logits)
            da = dat.transpose(1, 2) * (do_n * math.log(2))
            dx[images], dwq_n, dwk_n = _factors_backward(x[images], gram[images], wq, wk, path, da, db)
            dwq += dwq_n
            dwk += dwk_n
        dv = dv.view(batch, groups, -1, 1)
        dx += (wv.transpose(1, 2) @ dv).view(batch, in_chs, 1) / area
        grads = dx, dwq * _temperature(x), dwk, (dv @ pooled.transpose(2, 3)).sum(0)
    return tuple(g.view(t.shape).to(t.dtype) for g, t in zip(grads, inputs, strict=True))


def _weigh_columns(p: torch.Tensor, weight: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """sum_i p_ij w_i: (parts, rows, ch), (parts, rows, 1) -> (n, ch)."""
    n, ch = like.shape
    if p.device.type == "cpu":
        return torch.stack(
            [torch.mv(p_n.t(), w_n) for p_n, w_n in zip(p.view(n, -1, ch), weight.reshape(n, -1), strict=True)]
        )
    return torch.bmm(weight.reshape(n, 1, -1), p.view(n, -1, ch)).view(n, ch)


def _outer_difference(v: torch.Tensor, o: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """v_j - o_i: (n, ch), (parts, rows, 1) -> (parts, rows, ch)."""
    n, ch = v.shape
    torch.sub(v.view(n, 1, 1, ch), o.view(n, -1, o.shape[1], 1), out=out.view(n, -1, *out.shape[1:]))
    return out


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


def _setup_context(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: Tensors) -> None:
    x, wq, wk, wv, ctx.groups, ctx.path = inputs
    ctx.save_for_backward(x, wq, wk, wv, *output)
    ctx.set_materialize_grads(False)


def _autograd(ctx: torch.autograd.function.FunctionCtx, do: torch.Tensor | None, *_: None) -> tuple:
    if do is None:
        return (None,) * 6
    return *channel_attend_backward(do.contiguous(), *ctx.saved_tensors, ctx.groups, ctx.path), None, None


channel_attend.register_autograd(_autograd, setup_context=_setup_context)
