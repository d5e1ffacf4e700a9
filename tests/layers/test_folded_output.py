"""Scale * BatchNorm(O) folded into one projection, compared with convolution and BatchNorm."""

import copy

import pytest
import torch
from unit_inputs import make, unit

from timm_landmark.layers import ChannelAttention2d, force_path
from timm_landmark.layers.folded_output import can_fold, folds_cheaply


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(2, 8, 16, 4, 3, 5), (1, 12, 36, 1, 4, 4), (3, 64, 64, 32, 2, 1)])
def test_folded_output_is_batchnorm_and_scale(shape: tuple[int, ...], training: bool) -> None:
    """Values, gradients of input and parameters, and running statistics, compared with convolution and BatchNorm."""
    x = make(shape)[0]
    modules = [unit(shape).train(training) for _ in range(2)]
    assert folds_cheaply(shape[1], shape[3], *shape[4:]) == (shape[4] * shape[5] >= shape[1] // shape[3])
    folded = modules[0](x)
    with force_path("plain"):
        plain = modules[1](x)
    weights = torch.linspace(-1, 2, plain.numel(), dtype=plain.dtype).view(plain.shape)
    ours = torch.autograd.grad((folded * weights).sum(), [x, *modules[0].parameters()])
    theirs = torch.autograd.grad((plain * weights).sum(), [x, *modules[1].parameters()])
    for a, b in [(folded, plain), *zip(ours, theirs, strict=True)]:
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    for (name, a), b in zip(modules[0].named_buffers(), modules[1].buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12, msg=name)


def test_folded_output_survives_a_large_mean_in_float32() -> None:
    """Variance from the centred input: with a mean of ten deviations, it loses no more accuracy than BatchNorm does."""
    shape = (4, 16, 32, 4, 8, 8)
    x = make(shape, torch.float32)[0].detach() + 10
    module = unit(shape, torch.float32).train()
    exact = unit(shape).train()(x.double())
    folded = module(x).double()
    with force_path("plain"):
        plain = unit(shape, torch.float32).train()(x).double()
    error, usual = ((t - exact).abs().max() for t in (folded, plain))
    assert error <= 3 * usual + 1e-5


def test_other_norms_keep_the_usual_way() -> None:
    for norm in (torch.nn.SyncBatchNorm, lambda channels, **_: torch.nn.GroupNorm(4, channels)):
        module = ChannelAttention2d(8, 16, groups=4, norm_layer=norm).eval()
        assert not can_fold(module.norm, torch.randn(2, 8, 5, 5))
        assert module(torch.randn(2, 8, 5, 5)).shape == (2, 16, 5, 5)
    half = torch.randn(2, 8, 5, 5, dtype=torch.float16)
    assert not can_fold(torch.nn.BatchNorm2d(16), half)


def test_one_value_a_channel_is_refused_in_training() -> None:
    with pytest.raises(ValueError, match="more than"):
        ChannelAttention2d(8, 16, groups=8).train()(torch.randn(1, 8, 1, 1))


@pytest.mark.parametrize("training", [True, False])
def test_bfloat16_output_folds_as_batchnorm_in_float32(training: bool) -> None:
    """Under autocast: as close to float64 as convolution and BatchNorm in bfloat16, also the running statistics."""
    shape = (4, 64, 128, 32, 9, 9)
    x = make(shape)[0].detach().to(torch.bfloat16)
    folded, plain = (unit(shape, torch.float32).train(training) for _ in range(2))
    exact = copy.deepcopy(folded).double()
    expected = exact(x.double())
    with torch.autocast("cpu", torch.bfloat16):
        assert can_fold(folded.norm, x)
        ours = folded(x)
        with force_path("plain"):
            usual = plain(x)
    error, theirs = ((t.double() - expected).abs().max() for t in (ours, usual))
    assert ours.dtype == usual.dtype == torch.bfloat16
    assert error <= 1.5 * theirs
    for name, a in folded.named_buffers():
        torch.testing.assert_close(a.double(), exact.get_buffer(name).double(), rtol=1e-3, atol=1e-3, msg=name)


def cancelling(seed: int) -> tuple[ChannelAttention2d, torch.Tensor]:
    """A unit with two proportional channels and a row of weights that cancels them, and activations around 100."""
    torch.manual_seed(seed)
    module = ChannelAttention2d(4, 8, groups=1).train()
    x = torch.rand(4, 4, 8, 8) * 100
    x[:, 1] = x[:, 0] * 0.3
    with torch.no_grad():
        module.output.weight[0] = torch.tensor([0.3, -1.0, 0.0, 0.0]).view(4, 1, 1)
    return module, x


def test_a_variance_that_rounds_to_nothing_stays_finite() -> None:
    for seed in range(50):
        module, x = cancelling(seed)
        x.requires_grad_()
        out = module(x)
        out.square().sum().backward()
        assert out.isfinite().all()
        assert x.grad.isfinite().all()
        assert all(p.grad.isfinite().all() for p in module.parameters())
