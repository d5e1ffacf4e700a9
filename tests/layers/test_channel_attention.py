"""The attention unit: every path compared with the plain reference."""

from contextlib import nullcontext

import pytest
import timm
import torch
from unit_inputs import make, unit

from timm_landmark.layers import (
    PATHS,
    attention_scale,
    channel_attention_macs,
    channel_attention_reference,
    choose_path,
    force_path,
    streamed_attention,
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
        monkeypatch.setitem(streamed_attention.BLOCK_ELEMENTS, "cpu", 50)
    if request.param == "gpu":
        monkeypatch.setitem(streamed_attention.BLOCK_ELEMENTS, "cpu", streamed_attention.BLOCK_ELEMENTS["other"])
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


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "transposed", "expanded"])
@pytest.mark.parametrize("path", STREAMED)
def test_compilers_know_shapes_and_strides(path: str, layout: str, dtype: torch.dtype) -> None:
    """torch's own check of both operators: a compiled model reads their results with the strides that were promised."""
    shape = (2, 12, 24, 4, 3, 5)
    x, *weights = (t.detach() for t in make(shape, dtype))
    x = {
        "contiguous": x,
        "channels_last": x.contiguous(memory_format=torch.channels_last),
        "transposed": x.transpose(2, 3),
        "expanded": x[:1].expand(2, -1, -1, -1),
    }[layout]
    inputs = (x, *weights)
    forward, backward = torch.ops.timm_landmark.channel_attend, torch.ops.timm_landmark.channel_attend_backward
    o, lse, gram = forward(*inputs, shape[3], path)
    checks = ("test_schema", "test_faketensor", "test_autograd_registration")
    torch.library.opcheck(forward, (*inputs, shape[3], path), test_utils=checks)
    torch.library.opcheck(backward, (torch.ones_like(o), *inputs, o, lse, gram, shape[3], path), test_utils=checks[:2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [1.0, 100.0])
@pytest.mark.parametrize("path", PATHS)
def test_lower_precision_stays_near_float64(path: str, size: float, dtype: torch.dtype) -> None:
    """Also with activations a hundred times larger: finite, and as exact as the inputs' own rounding allows.

    In bfloat16 the products' factors are rounded too: logits up to about 20 here, so their rounding shows in softmax.
    Logits of 1e5 select a single key; after rounding, they may select its neighbour.
    """
    shape = (2, 32, 64, 8, 7, 7)
    inputs = make(shape, dtype, size)
    exact = scale_and_grads(shape, "reference", [t.detach().double().requires_grad_() for t in inputs])
    tolerance = {torch.float32: 2e-5, torch.bfloat16: 4e-2, torch.float16: 2e-3}[dtype]
    for ours, theirs in zip(scale_and_grads(shape, path, inputs), exact, strict=True):
        assert ours.dtype == dtype
        assert ours.isfinite().all()
        difference = (ours.double() - theirs).abs().max()
        if dtype != torch.bfloat16 or size == 1:
            assert difference <= tolerance * theirs.abs().max().clamp(min=1e-3) * (50 if size > 1 else 1)


@pytest.mark.parametrize("path", PATHS)
def test_logits_of_any_size_keep_the_softmax_finite(path: str) -> None:
    shape = (1, 8, 16, 4, 4, 4)
    inputs = [(t * 1e4).detach().requires_grad_() for t in make(shape)]
    results = scale_and_grads(shape, path, inputs)
    assert all(t.isfinite().all() for t in results)
    torch.testing.assert_close(results[0], scale_and_grads(shape, "reference", inputs)[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("path", PATHS)
def test_autocast_sums_in_float32(path: str) -> None:
    shape = (2, 16, 32, 4, 5, 5)
    inputs = make(shape, torch.float32, 100.0)
    outside = scale_and_grads(shape, path, inputs)
    with torch.autocast("cpu", torch.float16):
        inside = scale_and_grads(shape, path, inputs)
    for ours, theirs in zip(inside, outside, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("path", STREAMED)
@pytest.mark.parametrize("sides", [(7, 7), (14, 14)])
def test_bfloat16_on_activations_of_a_network(path: str, sides: tuple[int, int]) -> None:
    """After ReLU, projections that keep the variance (fan-in): Scale within 4e-3, gradients within 2 % of float64's."""
    shape = (2, 256, 512, 32, *sides)
    x, *weights = make(shape)
    inputs = [torch.randn_like(x).relu(), *(w / w.shape[1] ** 0.5 for w in weights)]
    inputs = [t.detach().to(torch.bfloat16).requires_grad_() for t in inputs]
    exact = scale_and_grads(shape, "reference", [t.detach().double().requires_grad_() for t in inputs])
    ours = scale_and_grads(shape, path, inputs)
    assert (ours[0].double() - exact[0]).abs().max() <= 4e-3  # bfloat16 rounds numbers near 0.5 by up to 2e-3
    for a, b in zip(ours[1:], exact[1:], strict=True):
        assert (a.double() - b).norm() <= 0.02 * b.norm()


@pytest.mark.parametrize("path", STREAMED)
def test_forward_mode_and_functional_derivatives(path: str) -> None:
    """Every transform of torch.func, and dual numbers, give the derivatives of the plain path."""
    shape = (2, 8, 16, 4, 3, 3)
    module = unit(shape).eval()
    x = make(shape)[0].detach()
    tangent = torch.randn_like(x)
    jacobian = torch.autograd.functional.jacobian(module, x)  # by the backward pass
    expected = torch.einsum("abcdefgh,efgh->abcd", jacobian, tangent)
    grad = torch.autograd.functional.jacobian(lambda t: module(t).sum(), x)
    with force_path(path):
        out, ours = torch.func.jvp(module, (x,), (tangent,))
        torch.testing.assert_close(out, module(x))
        torch.testing.assert_close(ours, expected)
        torch.testing.assert_close(torch.func.jacfwd(module)(x), jacobian)
        torch.testing.assert_close(torch.func.jacrev(module)(x), jacobian)
        torch.testing.assert_close(torch.func.grad(lambda t: module(t).sum())(x), grad)
        each = torch.func.vmap(torch.func.grad(lambda t: module(t[None]).sum()))(x)
        torch.testing.assert_close(each, grad)
        with torch.autograd.forward_ad.dual_level():
            dual = module(torch.autograd.forward_ad.make_dual(x, tangent))
            torch.testing.assert_close(torch.autograd.forward_ad.unpack_dual(dual).tangent, expected)


@pytest.mark.parametrize("path", STREAMED)
def test_forward_mode_of_a_compiled_unit(path: str) -> None:
    """The custom operators have no tangents, so torch.compile must not choose them inside a transform."""
    shape = (2, 8, 16, 4, 3, 3)
    module, x = unit(shape).eval(), make(shape)[0].detach()
    tangent = torch.randn_like(x)

    def derivative(x: torch.Tensor, tangent: torch.Tensor) -> torch.Tensor:
        return torch.func.jvp(module, (x,), (tangent,))[1]

    with force_path(path):
        expected = derivative(x, tangent)
        compiled = torch.compile(module, backend="eager")
        torch.testing.assert_close(compiled(x), module(x))  # traced outside of a transform first
        torch.testing.assert_close(torch.func.jvp(compiled, (x,), (tangent,))[1], expected)
        torch.testing.assert_close(torch.compile(derivative, backend="eager")(x, tangent), expected)


@pytest.mark.parametrize("path", PATHS)
def test_an_empty_batch_gives_an_empty_answer(path: str) -> None:
    model = timm.create_model("resneat50", num_classes=5, layers=(1, 1, 1, 1)).eval()
    with force_path(path):
        assert model(torch.zeros(0, 3, 64, 64)).shape == (0, 5)


@pytest.mark.parametrize("path", STREAMED)
@pytest.mark.parametrize("batch", [1, 64])
def test_buffers_are_no_larger_than_the_work(path: str, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With blocks as large as on a GPU: the buffers are no larger than the ch x ch maps of all images."""
    monkeypatch.setitem(streamed_attention.BLOCK_ELEMENTS, "cpu", streamed_attention.BLOCK_ELEMENTS["other"])
    blocks = streamed_attention._Blocks(torch.zeros(batch, 8, 25), 16, 4, path, buffers=2)
    assert blocks.buffers.shape[1] <= batch * 16 * 16


@pytest.mark.parametrize("path", STREAMED)
def test_the_same_numbers_twice(path: str) -> None:
    inputs = make((3, 16, 32, 4, 6, 6), torch.float32)
    first, second = (scale_and_grads((3, 16, 32, 4, 6, 6), path, inputs) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_second_derivative_is_refused_by_name() -> None:
    inputs = make((1, 4, 8, 2, 2, 2))
    with force_path("product"):
        (grad,) = torch.autograd.grad(attention_scale(*inputs, 2).sum(), inputs[0], create_graph=True)
    with pytest.raises(RuntimeError, match="channel_attend_backward"):
        grad.sum().backward()


def test_the_streamed_unit_keeps_no_map() -> None:
    """Peak memory of one call: a block, which is a quarter of this batch's ch x ch maps."""
    batch, in_chs, out_chs = 32, 256, 512
    x = torch.randn(batch, in_chs, 3, 3)
    weights = [torch.randn(out_chs, in_chs // 32, 1, 1) for _ in "qkv"]
    with torch.profiler.profile(profile_memory=True) as profile, force_path("product"), torch.no_grad():
        attention_scale(x, *weights, 32)
    largest = max((event.cpu_memory_usage for event in profile.events() if event.name == "aten::empty"), default=0)
    assert 0 < largest <= batch * out_chs * out_chs * 4 / 4


# The paper's Table 1 at 224 pixels: in_chs, out_chs, side; and the path that is chosen by count.
STAGES = [(128, 256, 56, "gram"), (256, 512, 28, "gram"), (512, 1024, 14, "gram"), (1024, 2048, 7, "product")]


@pytest.mark.parametrize(("in_chs", "out_chs", "side", "path"), STAGES)
def test_choice_and_counts_by_stage(in_chs: int, out_chs: int, side: int, path: str) -> None:
    shapes = (in_chs, out_chs, 32, side, side)
    assert choose_path(*shapes) == path
    macs = {p: channel_attention_macs(*shapes, p) for p in PATHS}
    assert macs["plain"]["logits"] == out_chs * out_chs * side * side == 205_520_896
    assert macs["gram"]["gram"] == in_chs * in_chs * side * side
    assert sum(macs[path].values()) == min(sum(macs[p].values()) for p in STREAMED)
    with force_path("plain"):
        assert choose_path(*shapes) == "plain"
    assert choose_path(*shapes) == path


def test_small_maps_take_the_product() -> None:
    assert choose_path(1024, 2048, 32, 3, 3) == "product"
    assert choose_path(512, 1024, 32, 6, 6) == "product"
    assert choose_path(128, 256, 32, 24, 24) == "gram"


def test_an_unknown_path_is_refused_and_the_choice_stays() -> None:
    with pytest.raises(ValueError, match="plain, product, gram"), force_path("fast"):
        pass
    with pytest.raises(ValueError, match="unknown path"):
        channel_attention_macs(8, 16, 4, 2, 2, "fast")
    assert choose_path(128, 256, 32, 56, 56) == "gram"


def losses(path: str | None, dtype: torch.dtype, steps: int) -> list[float]:
    """Losses of the first training steps of a small ResNeAt on a forced path, or on the chosen ones."""
    torch.manual_seed(0)
    model = (
        timm.create_model("resneat50", num_classes=5, layers=(1, 1, 1, 1), channels=(32, 64, 128, 128))
        .to(dtype)
        .train()
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-4)
    x, y = torch.randn(steps, 8, 3, 64, 64, dtype=dtype), torch.randint(0, 5, (steps, 8))
    taken = []
    with force_path(path) if path else nullcontext():
        for images, labels in zip(x, y, strict=True):
            loss = torch.nn.functional.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            taken.append(loss.item())
    return taken


def test_pair_of_runs_float32() -> None:
    """Plain and fast, same seed: five losses agree to 1e-4; later they drift as any two summation orders do."""
    torch.testing.assert_close(losses(None, torch.float32, 5), losses("plain", torch.float32, 5), rtol=1e-4, atol=0)


def test_pair_of_runs_float64() -> None:
    """Two losses, so that one whole step (gradients, Adam, running statistics) lies between them."""
    torch.testing.assert_close(losses(None, torch.float64, 2), losses("plain", torch.float64, 2), rtol=1e-9, atol=0)
