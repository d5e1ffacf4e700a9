"""The attention unit: every form against the plain reference."""

import pytest
import torch

from timm_landmark.layers import (
    PATHS,
    attention_scale,
    channel_attend,
    channel_attention_reference,
    force_path,
)

# (batch, in_chs, out_chs, groups, height, width)
SHAPES = [
    (2, 8, 16, 4, 3, 5),
    (1, 64, 96, 32, 4, 4),
    (3, 6, 12, 1, 1, 1),
    (1, 8, 8, 8, 7, 2),
    (4, 5, 15, 5, 1, 9),
]
STREAMED = ("product", "gram")


def make(shape: tuple[int, ...], dtype: torch.dtype = torch.float64, size: float = 1.0) -> list[torch.Tensor]:
    """Input and the three weights, with gradients."""
    batch, in_chs, out_chs, groups, height, width = shape
    generator = torch.Generator().manual_seed(sum(shape))
    x = torch.rand(batch, in_chs, height, width, generator=generator, dtype=torch.float64) * size
    weights = [torch.randn(out_chs, in_chs // groups, 1, 1, generator=generator, dtype=torch.float64) for _ in "qkv"]
    return [t.to(dtype).requires_grad_() for t in (x, *weights)]


def scale_and_grads(shape: tuple[int, ...], path: str, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """Scale and the gradients of a fixed weighted sum of it; ``path`` may be ``reference``."""
    if path == "reference":
        scale = channel_attention_reference(*inputs, shape[3])
    else:
        with force_path(path):
            scale = attention_scale(*inputs, shape[3])
    weights = torch.linspace(-1, 2, scale.numel(), dtype=scale.dtype).view(scale.shape)
    return [scale, *torch.autograd.grad((scale * weights).sum(), inputs)]


@pytest.fixture(params=["default", "small", "gpu"])
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Blocks as chosen, blocks of few rows, and the one large block of a GPU."""
    if request.param == "small":
        monkeypatch.setitem(channel_attend.BLOCK_ELEMENTS, "cpu", 50)
    if request.param == "gpu":
        monkeypatch.setitem(channel_attend.BLOCK_ELEMENTS, "cpu", channel_attend.BLOCK_ELEMENTS["other"])
    return request.param


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients_equal_the_reference(shape: tuple[int, ...], path: str, block: str) -> None:
    inputs = make(shape)
    for ours, theirs in zip(
        scale_and_grads(shape, path, inputs), scale_and_grads(shape, "reference", inputs), strict=True
    ):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("path", STREAMED)
def test_gradcheck(path: str, block: str) -> None:
    shape = (2, 6, 12, 3, 2, 2)
    with force_path(path):
        assert torch.autograd.gradcheck(lambda *inputs: attention_scale(*inputs, shape[3]), make(shape))
