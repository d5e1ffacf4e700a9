"""softmax(Q K^T / sqrt(s)) V of section 3.2.3 with ordinary operators, for graphs that are exported from torch.

The same two paths as in ``channel_attend``; they work for every batch and image size.
"""

import torch

# At most this many logits of one image are in a block of rows: 4 MB for a batch of 8. No ch x ch map is kept whole.
BLOCK_ELEMENTS = 2**17


def graph_attend(
    x: torch.Tensor, wq: torch.Tensor, wk: torch.Tensor, wv: torch.Tensor, groups: int, path: str
) -> torch.Tensor:
    """Computes the attended value; arguments as for ``channel_attend``.

    Returns:
        The attended value, shape (B, ch).
    """
    ch, in_chs, c = wq.shape[0], x.shape[1], wq.shape[1]
    rows = min(ch, max(1, BLOCK_ELEMENTS // ch))  # at once
    x = x.flatten(2)  # (B, C, s)
    wq, wk, wv = (w.view(groups, -1, c) for w in (wq * x.shape[2] ** -0.5, wk, wv))
    v = (wv @ x.mean(2).view(-1, groups, c, 1)).view(-1, 1, ch)  # (g, ch/g, c) @ (B, g, c, 1): V as a row
    if path == "gram":
        gram = (x @ x.transpose(1, 2)).view(-1, groups, c, in_chs)
        kx = wk @ gram  # (g, ch/g, c) @ (B, g, c, C) -> (B, g, ch/g, C): K x^T
        b = kx.view(-1, ch, groups, c).permute(0, 2, 3, 1)  # (B, g, c, ch): the rows of x K^T, by group
        step = max(1, rows * groups // ch)  # groups at once
        blocks = zip(wq.split(step), b.split(step, 1), strict=True)
        attended = [_weigh(a @ b, v.unsqueeze(1)) for a, b in blocks]  # (step, ch/g, c) @ (B, step, c, ch)
    else:
        x = x.view(-1, groups, c, x.shape[2])
        q, k = ((w @ x).flatten(1, 2) for w in (wq, wk))  # (g, ch/g, c) @ (B, g, c, s) -> (B, ch, s)
        k = k.transpose(1, 2).contiguous()  # (B, s, ch)
        attended = [_weigh(a @ k, v) for a in q.split(rows, 1)]  # (B, rows, s) @ (B, s, ch)
    return torch.cat(attended, 1)


def _weigh(logits: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """softmax(logits) V, (B, ..., rows, ch) -> (B, all rows); torch is faster with V as the first factor."""
    return (v @ torch.softmax(logits, -1).transpose(-1, -2)).flatten(1)  # (B, ..., 1, ch) @ (B, ..., ch, rows)
