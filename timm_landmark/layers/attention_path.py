"""The paths that compute the attention unit, their costs, and how to force one of them.

Three paths give the same Scale. With x the input (C, s), Wq and Wk block-diagonal (ch, C), c = C / groups:

* ``plain``: section 3.2.3 as written, with ordinary differentiable operators.
* ``product``: computes Q and K and streams Q K^T: ch * ch * s multiply-adds.
* ``gram``: uses Q K^T = Wq (x x^T) Wk^T. It computes the Gram matrix x x^T (C * C * s multiply-adds), then two cheap
  block-diagonal products (C * ch * c and ch * ch * c). This costs less on large maps, because C is half of ch.

The last two are implemented as a custom operator with a backward pass (``channel_attend``), and again with ordinary
operators for graphs that are exported from torch (``graph_attention``).
"""

from collections.abc import Iterator
from contextlib import contextmanager

PATHS = ("plain", "product", "gram")

# Multiply-adds that take as long as writing one float32 and reading it again. The ratio has this order of magnitude on
# CPUs and GPUs, and it matters only near the crossover of the two paths.
MACS_PER_ELEMENT_MOVED = 16

_forced: str | None = None


def channel_attention_macs(
    in_chs: int, out_chs: int, groups: int, height: int, width: int, path: str
) -> dict[str, int]:
    """Counts the multiply-adds of one attention unit on one image, by part.

    Args:
        in_chs: Channels of the unit's input.
        out_chs: Channels of its output.
        groups: Number of groups.
        height: Height of the feature map.
        width: Width of the feature map.
        path: One of ``PATHS``.

    Returns:
        ``projections`` (Q and K, or the first of the two block-diagonal products), ``value``, ``gram``, ``logits``,
        ``weighting`` (softmax times V) and ``output`` (the projection O). The unit's cost is their sum.

    Raises:
        ValueError: If the path is unknown.
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
    """Chooses the path for these shapes: the forced one, else the streamed path with the lower estimated cost.

    The cost counts multiply-adds and the intermediate results that are written and read again: Q and K, or x x^T and
    K x^T. Both paths compute the same number of exponentials. In a graph with dynamic image size the choice is
    ``gram``, which saves more the larger the map is.
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
    """Whether ``force_path`` is active with this path."""
    return _forced == path


@contextmanager
def force_path(path: str) -> Iterator[None]:
    """Makes every attention unit of the process use this path within the context, whatever its shapes.

    Raises:
        ValueError: If the path is unknown.
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
        raise ValueError(f"path={path!r}: unknown path of the attention unit, choose from {', '.join(PATHS)}")
