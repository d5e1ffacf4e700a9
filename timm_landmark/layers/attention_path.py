"""Which form computes the attention unit, what each form costs, and how to force one.

Three forms give the same Scale. With x the input (C, s), Wq and Wk block-diagonal (ch, C), c = C / groups:

* ``plain``: section 3.2.3 as written, made of ordinary differentiable operators.
* ``product``: Q and K are formed and Q K^T is streamed: ch * ch * s multiply-adds.
* ``gram``: Q K^T = Wq (x x^T) Wk^T, so the Gram matrix x x^T is formed (C * C * s), then the two cheap block-diagonal
  products (C * ch * c and ch * ch * c): less where the map is large, as half as many channels meet.

The last two are custom operators with a backward pass (``channel_attend``), and are written once more in ordinary
operators for graphs that leave torch (``graph_attention``).
"""

from collections.abc import Iterator
from contextlib import contextmanager

PATHS = ("plain", "product", "gram")

# Multiply-adds that pass while one float32 is written and read again: the balance of arithmetic and memory, of this
# order on CPUs and GPUs alike. It matters near the cross-over only.
MACS_PER_ELEMENT_MOVED = 16

_forced: str | None = None


def channel_attention_macs(
    in_chs: int, out_chs: int, groups: int, height: int, width: int, path: str
) -> dict[str, int]:
    """Multiply-adds that one attention unit spends on one image, by part.

    Args:
        in_chs: Channels of the unit's input.
        out_chs: Channels of its output.
        groups: Number of groups.
        height: Height of the feature map.
        width: Width of the feature map.
        path: One of ``PATHS``.

    Returns:
        ``projections`` (Q and K, or the two block-diagonal products' first), ``value``, ``gram``, ``logits``,
        ``weighting`` (softmax times V) and ``output`` (the projection O). Their sum is the unit's cost.

    Raises:
        ValueError: If the path is not known.
    """
    _check(path)
    area = height * width
    grouped = out_chs * (in_chs // groups)  # one grouped 1x1 convolution on one pixel
    macs = {
        "projections": 2 * grouped * area,
        "value": grouped,  # V = CV(AP(x)): the projection of one pooled vector
        "gram": 0,
        "logits": out_chs * out_chs * area,
        "weighting": out_chs * out_chs,
        "output": grouped * area,
    }
    if path == "plain":
        macs["value"] = grouped * area
    elif path == "gram":
        macs["projections"] = grouped * in_chs  # Wk (x x^T)
        macs["gram"] = in_chs * in_chs * area
        macs["logits"] = out_chs * grouped  # Wq (x x^T Wk^T)
    return macs


def choose_path(in_chs: int, out_chs: int, groups: int, height: int, width: int) -> str:
    """The form for these shapes: the forced one, else the streamed form that costs less by count.

    Cost is multiply-adds, and what each form writes and reads again on the way to its logits: Q and K, or x x^T and
    K x^T. The exponentials are as many in both. Where a graph leaves the image size open, ``gram`` is taken: the larger
    the map, the more it saves.
    """
    if _forced is not None:
        return _forced
    if not (isinstance(height, int) and isinstance(width, int)):
        return "gram"
    area = height * width
    moved = {"product": 2 * out_chs * area, "gram": in_chs * in_chs + out_chs * in_chs}
    macs = {path: sum(channel_attention_macs(in_chs, out_chs, groups, height, width, path).values()) for path in moved}
    return min(moved, key=lambda path: macs[path] + MACS_PER_ELEMENT_MOVED * moved[path])


def is_forced(path: str) -> bool:
    """Whether ``force_path`` holds the units to this form."""
    return _forced == path


@contextmanager
def force_path(path: str) -> Iterator[None]:
    """Within this context every attention unit of the process takes the named form, whatever its shapes.

    Raises:
        ValueError: If the path is not known.
    """
    global _forced
    _check(path)
    before, _forced = _forced, path
    try:
        yield
    finally:
        _forced = before


def _check(path: str) -> None:
    if path not in PATHS:
        raise ValueError(f"path={path!r}: there is no such form of the attention unit, take one of {', '.join(PATHS)}")
