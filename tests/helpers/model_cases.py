"""The two networks as cases of the model contract, and helpers to compare models, for the test_model_contract files."""

from dataclasses import dataclass

import timm
import torch
from torch import nn

import timm_landmark.models.inception_resnet_pa as pa
import timm_landmark.models.resneat as resneat
from timm_landmark.layers import ChannelAttention2d

CLASSES = 10


@dataclass(frozen=True)
class Case:
    """One network: its name, the timm model it is based on (``twin``), a small image, and the expected feature_info."""

    name: str
    twin: str
    size: int
    channels: tuple[int, ...]
    reductions: tuple[int, ...]
    first_conv: str
    classifier: str
    block: type[nn.Module]

    def create(self, **kwargs) -> nn.Module:
        """The network with ten classes, as users make it."""
        return timm.create_model(self.name, **dict(dict(num_classes=CLASSES), **kwargs))

    def small(self, **kwargs) -> nn.Module:
        """The network with fewer blocks of each kind, for tests that would take minutes on the whole one."""
        if self == RESNEAT:
            return self.create(layers=(1, 1, 1, 1), **kwargs)
        model = self.create(**kwargs)
        for run in ("repeat", "repeat_1", "repeat_2"):
            blocks = list(getattr(model, run))
            setattr(model, run, type(model.repeat)(blocks[0], *([] if run == "repeat_2" else [blocks[-1]])))
        return model

    def images(self, batch: int = 2, chans: int = 3) -> torch.Tensor:
        """Normal noise, shape (batch, chans, size, size)."""
        return torch.randn(batch, chans, self.size, self.size)

    def blocks(self, model: nn.Module) -> list[nn.Module]:
        """The residual blocks in the order of the forward pass."""
        return [module for module in model.modules() if isinstance(module, self.block)]


RESNEAT = Case(
    name="resneat50",
    twin="resnext50_32x4d",
    size=64,
    channels=(64, 256, 512, 1024, 2048),
    reductions=(2, 4, 8, 16, 32),
    first_conv="conv1",
    classifier="fc",
    block=resneat.ChannelAttentionBottleneck,
)
PA = Case(
    name="inception_resnet_pa",
    twin="inception_resnet_v2",
    size=128,
    channels=(64, 192, 320, 1088, 1536),
    reductions=(2, 4, 8, 16, 32),
    first_conv="conv2d_1a.conv",
    classifier="classif",
    block=pa.PreActResidual,
)


def lively(model: nn.Module, seed: int = 0) -> nn.Module:
    """Gives every BatchNorm random weights and statistics, as after training; returns the model in eval mode.

    A new ResNeAt starts its units at zero (zero_init_last), and timm's fan-out rule makes the weights of grouped
    convolutions so small that every scale is 0.5. Errors in the units would then go unnoticed, so their weights follow
    fan-in here, and those of the values are even larger.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0, generator=generator)
            nn.init.normal_(module.bias, std=0.1, generator=generator)
            nn.init.normal_(module.running_mean, std=0.1, generator=generator)
            nn.init.uniform_(module.running_var, 0.5, 1.5, generator=generator)
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            nn.init.kaiming_normal_(module.weight, mode="fan_in", generator=generator)
    for module in model.modules():
        if isinstance(module, ChannelAttention2d):
            nn.init.normal_(module.key.weight, generator=generator)
            nn.init.normal_(module.value.weight, std=4, generator=generator)
    return model.eval()


def assert_same(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-4) -> None:
    """Asserts equality up to ``tolerance`` of the largest expected value; the expected values must not be constant."""
    assert actual.shape == expected.shape
    actual, expected = actual.detach().double(), expected.detach().double()
    assert expected.isfinite().all()
    scale = expected.abs().max()
    assert scale > 0
    assert (actual - expected).abs().max() <= tolerance * scale


def gradients(model: nn.Module, images: torch.Tensor, run=None) -> dict[str, torch.Tensor]:
    """Gradients of a loss that depends on every output; ``run`` is called (by default the model)."""
    model.zero_grad()
    output = (model if run is None else run)(images)  # a compiled module has no truth value
    output = output if isinstance(output, (list, tuple)) else [output]
    sum(part.float().square().mean() for part in output).backward()
    missing = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not missing, f"no gradient for {missing}"
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def assert_same_gradients(
    actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float = 1e-3
) -> None:
    """Asserts equal parameter names, and gradients equal up to ``tolerance`` of the norm of the expected one."""
    assert actual.keys() == expected.keys()
    floor = 1e-6 * max(gradient.norm() for gradient in expected.values())  # for gradients that are only rounding errors
    for name, gradient in expected.items():
        difference = (actual[name] - gradient).norm()
        assert difference <= tolerance * gradient.norm() + floor, f"{name}: off by {difference / gradient.norm():.1e}"
