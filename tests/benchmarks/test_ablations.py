"""Variants of the attention unit: what they cost, that only the unit differs, and cosine attention's streamed form."""

import math

import pytest
import timm
import torch

from benchmarks.ablations import VARIANTS, ChannelShuffle, Variant, change
from benchmarks.variants import cosine_attention
from benchmarks.variants.cosine_attention import CosineAttention2d, cosine_scale, cosine_scale_reference
from timm_landmark.accounting.macs import count_macs, count_model
from timm_landmark.layers import ChannelAttention2d, attention_path

SIDES = {256: 16, 512: 8, 1024: 4, 2048: 2}  # of the units' maps at 64 pixels


def units(net):
    return [block.attn for block in net.modules() if hasattr(block, "attn")]


def create(name, **options):
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=10, **options)


@pytest.fixture(scope="module")
def paper():
    """The paper's network, which no test may change: tests run in any order."""
    return create("resneat50")


def saved(name, out_chs):
    """Closed formulas: parameters and MACs that a variant's unit saves at 64 pixels, relative to the paper's."""
    c, area = out_chs // 64, SIDES[out_chs] ** 2
    grouped, softmax = out_chs * c, out_chs * out_chs * (area + 1)
    return {
        "scale1": (3 * grouped, 3 * grouped * area + softmax),
        "mean": (2 * grouped, 3 * grouped * area + softmax - grouped),  # V of one pooled vector
        "large": (0, 0),
        "cosine": (-1, 0),
        "dense": (-31 * grouped, -31 * grouped * area),
    }.get(name, (0, 0))


@pytest.mark.parametrize("name", VARIANTS)
def test_parameters_and_macs_by_formula(name, paper):
    net, x = create(name), torch.zeros(1, 3, 64, 64)
    kind = name.removeprefix("resneat50_").removesuffix("_shuffle")
    less = [saved(kind, unit.output.out_channels) for unit in units(paper)]
    assert len(less) == 16
    count = [sum(p.numel() for p in model.parameters()) for model in (paper, net)]
    assert count[0] - count[1] == sum(params for params, _ in less)
    with attention_path.force_path("plain"):
        macs = [count_macs(model, x) for model in (paper, net)]
    assert macs[0].macs - macs[1].macs == sum(n for _, n in less)
    assert macs[1].uncounted == {}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_starts_from_the_same_weights(name, paper):
    theirs, ours = paper.state_dict(), create(name).state_dict()
    assert ours.keys() - theirs.keys() <= {key for key in ours if key.endswith("log_temperature")}
    other = {key for key in ours.keys() & theirs.keys() if not torch.equal(ours[key], theirs[key])}
    changed = {"output"} if "dense" in name else {"query", "key", "value"} if VARIANTS[name].start else set()
    assert other == {key for key in ours if key.split(".")[-2] in changed}


def test_no_change_is_the_papers_network():
    x = torch.randn(2, 3, 64, 64)
    paper, same = create("resneat50"), change(create("resneat50"), Variant())
    for mode in (True, False):
        assert torch.equal(same.train(mode)(x), paper.train(mode)(x))


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_computes_something_else_and_all_its_parameters_learn(name):
    net, paper, x = create(name), create("resneat50"), torch.randn(2, 3, 64, 64)
    for model in (net, paper):  # timm starts every block as the identity, which hides the unit
        for unit in units(model):
            torch.nn.init.ones_(unit.norm.weight)
    out = net.train()(x)
    with torch.no_grad():
        assert not torch.allclose(out, paper.train()(x), atol=1e-4)
    out.square().sum().backward()
    for key, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key
        assert parameter.grad.abs().max() > 0, key


def test_what_a_variant_spends_in_its_real_form():
    count = count_model("resneat50_cosine", 64)
    assert 0 < count.macs_spent < count.macs


@pytest.mark.parametrize("name", ["resneat50_large", "resneat50_cosine"])
def test_start_of_the_larger_projections(name, paper):
    large = units(create(name))
    for old, new in zip(units(paper), large, strict=True):
        assert old.value.weight.std().item() * old.value.weight.shape[1] ** 0.5 == pytest.approx(0.18, rel=0.05)
        for projection in (new.query, new.key, new.value):
            assert projection.weight.std().item() * projection.weight.shape[1] ** 0.5 == pytest.approx(2)
        assert torch.allclose(new.query.weight / new.query.weight.std(), old.query.weight / old.query.weight.std())


def test_pretrained_weights_are_refused():
    with pytest.raises(ValueError, match="pretrained=True: there are no weights for the variant resneat50_mean"):
        timm.create_model("resneat50_mean", pretrained=True)


@pytest.mark.parametrize(("groups", "channels"), [(32, 128), (32, 1024), (4, 8)])
def test_shuffle_mixes_every_group_with_others(groups, channels):
    of = torch.arange(channels).float() // (channels // groups)  # each channel's group
    mixed = ChannelShuffle(groups)(of[None, :, None, None].expand(2, -1, 3, 2))[0, :, 0, 0].view(groups, -1)
    assert sorted(mixed.flatten().tolist()) == of.tolist()
    assert all(len(set(group.tolist())) == channels // groups for group in mixed)


def inputs(batch=3, in_chs=8, out_chs=16, side=3, groups=4, dtype=torch.float64):
    x = torch.rand(batch, in_chs, side, side, dtype=dtype, requires_grad=True)
    weights = [torch.randn(out_chs, in_chs // groups, 1, 1, dtype=dtype, requires_grad=True) for _ in range(3)]
    return x, *weights, torch.tensor(3.0, dtype=dtype, requires_grad=True), groups


@pytest.fixture(params=["one block", "rows of an image"])
def blocks(request, monkeypatch):
    """Everything in one block, or blocks that divide an image: 5 rows of 16 logits, or the 4 rows of one group."""
    if request.param != "one block":
        monkeypatch.setattr(cosine_attention, "BLOCK_ELEMENTS", 80)


@pytest.mark.parametrize("path", ["product", "gram"])
def test_streamed_cosine_attention_equals_the_plain_form(path, blocks):
    given = inputs()
    ours, plain = cosine_scale(*given, path), cosine_scale_reference(*given)
    assert torch.allclose(ours, plain, rtol=0, atol=1e-13)
    assert plain.std(1).min() > 0.01  # the rows differ, so the maps are not equal just because they are constant
    weight = torch.randn_like(plain)
    grads = [torch.autograd.grad((scale * weight).sum(), given[:5]) for scale in (ours, plain)]
    for grad, expected in zip(*grads, strict=True):
        assert torch.allclose(grad, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("path", ["product", "gram"])
def test_gradients_of_streamed_cosine_attention(path, blocks):
    *tensors, groups = inputs(batch=2, in_chs=4, out_chs=8, side=2, groups=2)
    assert torch.autograd.gradcheck(lambda *given: cosine_scale(*given, groups, path), tensors)


@pytest.mark.parametrize("path", ["product", "gram"])
@pytest.mark.parametrize(("in_chs", "out_chs", "side"), [(128, 256, 28), (1024, 2048, 4)])
def test_streamed_cosine_attention_in_float32(path, in_chs, out_chs, side):
    """Real sizes, several blocks per batch at the larger one, and the temperature at its limit."""
    *tensors, _, groups = inputs(2, in_chs, out_chs, side, 32, torch.float32)
    t = torch.tensor(cosine_attention.LIMIT, requires_grad=True)
    exact = [tensor.detach().double().requires_grad_() for tensor in (*tensors, t)]
    ours, plain = cosine_scale(*tensors, t, groups, path), cosine_scale_reference(*exact, groups)
    assert torch.allclose(ours.double(), plain, rtol=0, atol=2e-4)
    grads = [
        torch.autograd.grad(scale.square().sum(), given) for scale, given in ((ours, (*tensors, t)), (plain, exact))
    ]
    for grad, expected in zip(*grads, strict=True):
        assert (grad - expected).norm() <= 2e-3 * expected.norm()


@pytest.mark.parametrize("path", ["product", "gram"])
def test_rows_of_zeros_stay_finite(path):
    x, *rest = inputs()
    x = torch.cat([x.detach()[:1] * 0, x.detach()[1:]]).requires_grad_()
    scale = cosine_scale(x, *rest, path)
    assert torch.allclose(scale, cosine_scale_reference(x, *rest))
    scale.sum().backward()
    assert x.grad.isfinite().all() and rest[0].grad.isfinite().all()


def test_the_unit_takes_every_form_alike():
    unit, x = CosineAttention2d(16, 32, 4).double(), torch.rand(2, 16, 5, 5, dtype=torch.float64)
    assert isinstance(unit, ChannelAttention2d) and unit.temperature().item() == pytest.approx(20)
    results = {}
    for path in attention_path.PATHS:
        with attention_path.force_path(path):
            results[path] = unit(x)
    assert torch.allclose(results["product"], results["plain"]) and torch.allclose(results["gram"], results["plain"])
    plain = cosine_scale_reference(x, unit.query.weight, unit.key.weight, unit.value.weight, unit.temperature(), 4)
    assert torch.allclose(unit.scale(x), plain)


def test_the_temperature_is_held_at_its_limit():
    unit = CosineAttention2d(16, 32, 4)
    with torch.no_grad():
        unit.log_temperature.fill_(math.log(1000))
    assert unit.temperature() == cosine_attention.LIMIT
    assert unit.scale(torch.rand(2, 16, 5, 5)).isfinite().all()
