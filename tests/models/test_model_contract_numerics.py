"""Compares the networks with the paper's formulas, written out by hand, and with the timm models they are based on."""

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from model_cases import PA, RESNEAT, assert_same, assert_same_gradients, gradients, lively
from torch import nn

from timm_landmark.layers import ChannelAttention2d, channel_attention_reference
from timm_landmark.models.inception_resnet_pa import PreActResidual, ResidualRun


def batch_norm(x: torch.Tensor, norm: nn.BatchNorm2d) -> torch.Tensor:
    """BatchNorm without the module's own forward; does not change its statistics."""
    if norm.training:
        return F.batch_norm(x, None, None, norm.weight, norm.bias, training=True, eps=norm.eps)
    return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)


def shapes(model: nn.Module, without: tuple[str, ...] = ()) -> dict[str, tuple[int, ...]]:
    """Shape of each entry of the state dict whose name has no part in ``without``."""
    return {k: tuple(v.shape) for k, v in model.state_dict().items() if not set(k.split(".")) & set(without)}


# parameters and names


def resneat_parameters(layers: tuple[int, ...], classes: int, groups: int = 32) -> int:
    """Parameters of Table 1's last column, counted by hand: convolutions without bias, two numbers per BatchNorm."""
    total, chs = 3 * 64 * 49 + 2 * 64, 64
    for stage, blocks in enumerate(layers):
        width, out = 128 * 2**stage, 256 * 2**stage
        for block in range(blocks):
            total += chs * width + 2 * width  # 1x1 and its norm
            total += width * width * 9 // groups + 2 * width  # grouped 3x3 and its norm
            total += 4 * width * out // groups + 2 * out  # Q, K, V, O and the norm of O
            total += chs * out + 2 * out if block == 0 else 0  # projection of the shortcut
            chs = out
    return total + chs * classes + classes


@pytest.mark.parametrize(
    ("name", "layers", "stated"), [("resneat50", (3, 4, 6, 3), 16_226_600), ("resneat101", (3, 4, 23, 3), None)]
)
def test_resneat_parameter_count(name, layers, stated):
    count = sum(p.numel() for p in timm.create_model(name, device="meta").parameters())
    assert count == resneat_parameters(layers, 1000)
    assert stated is None or count == stated


def test_inception_resnet_pa_parameter_count():
    model = timm.create_model("inception_resnet_pa", device="meta")
    assert sum(p.numel() for p in model.parameters()) == 55_941_960
    # the same convolutions as inception_resnet_v2's, one for one, biases included; what differs are the norms
    twin = timm.create_model("inception_resnet_v2", device="meta")
    for kind in (nn.Conv2d, nn.Linear):
        ours, theirs = (
            sorted(tuple(p.shape) for m in net.modules() if isinstance(m, kind) for p in m.parameters())
            for net in (model, twin)
        )
        assert ours == theirs


def test_resneat_names_are_the_hosts():
    """conv1, bn1, conv2, bn2, downsample and fc load from resnext50_32x4d; attn replaces conv3 and bn3."""
    model = timm.create_model("resneat50", num_classes=10)
    twin = timm.create_model("resnext50_32x4d", num_classes=10)
    assert shapes(model, without=("attn",)) == shapes(twin, without=("conv3", "bn3"))
    units = {key.split(".attn.")[1] for key in model.state_dict() if ".attn." in key}
    assert {unit for unit in units if not unit.startswith("norm.")} == {
        "query.weight",
        "key.weight",
        "value.weight",
        "output.weight",
    }
    result = model.load_state_dict(twin.state_dict(), strict=False)
    assert all(".attn." in key for key in result.missing_keys)
    assert all(".conv3." in key or ".bn3." in key for key in result.unexpected_keys)


def test_inception_resnet_pa_keeps_all_but_the_residual_members():
    replaced = ("repeat", "repeat_1", "repeat_2", "block8")
    model, twin = (timm.create_model(name, device="meta") for name in ("inception_resnet_pa", "inception_resnet_v2"))
    assert isinstance(model, type(twin))
    assert shapes(model, replaced) == shapes(twin, replaced)
    assert [name for name, _ in model.named_children()] == [name for name, _ in twin.named_children()]
    for name, module in twin.named_children():
        if name not in replaced:
            assert repr(model.get_submodule(name)) == repr(module)


# ResNeAt


def resneat_block(block: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Figure 8 and section 3.2.3: ReLU(Scale * norm(O) + shortcut), from the paper's plain unit."""
    conv, unit = block.conv2, block.attn
    h = F.relu(batch_norm(F.conv2d(x, block.conv1.weight), block.bn1))
    h = F.conv2d(h, conv.weight, None, conv.stride, conv.padding, conv.dilation, conv.groups)
    h = F.relu(batch_norm(h, block.bn2))
    scale = channel_attention_reference(h, unit.query.weight, unit.key.weight, unit.value.weight, groups=32)
    h = scale[:, :, None, None] * batch_norm(F.conv2d(h, unit.output.weight, groups=32), unit.norm)
    if block.downsample is not None:
        x = batch_norm(F.conv2d(x, block.downsample[0].weight, stride=block.downsample[0].stride), block.downsample[1])
    return F.relu(h + x)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("path", ["layer1.0", "layer1.1", "layer2.0", "layer4.0", "layer4.2"])
def test_resneat_block_is_the_formula(path, training):
    model = lively(RESNEAT.create(output_stride=16)).train(training)  # layer4 dilated
    block = model.get_submodule(path)
    x = torch.randn(2, block.conv1.in_channels, 12, 12)
    expected = resneat_block(block, x)
    assert_same(block(x), expected)
    assert (expected == 0).any() and (expected > 0).any()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-7), (torch.float32, 1e-2)])
def test_whole_resneat_equals_the_plain_reference(monkeypatch, dtype, tolerance):
    """Logits and gradients of the network as shipped and with the paper's plain unit in every block."""
    model, images = lively(RESNEAT.create().to(dtype)), RESNEAT.images().to(dtype)
    logits, expected = model(images), gradients(model, images)
    expected_in_training = gradients(copy.deepcopy(model).train(), images)

    def plain(unit, x):
        scale = channel_attention_reference(x, unit.query.weight, unit.key.weight, unit.value.weight, groups=32)
        return scale[:, :, None, None] * unit.norm(unit.output(x))

    monkeypatch.setattr(ChannelAttention2d, "forward", plain)
    assert_same(logits, model(images), tolerance)
    assert_same_gradients(expected, gradients(model, images), tolerance)
    if dtype == torch.float64:  # batch statistics of 2x2 maps amplify rounding errors too much in float32
        assert_same_gradients(expected_in_training, gradients(model.train(), images), tolerance)


def test_resneat_attention_decides():
    """Each of Q, K and V affects the logits."""
    model, images = lively(RESNEAT.create()), RESNEAT.images()
    with torch.no_grad():
        before = model(images)
        for name in ("query", "key", "value"):
            changed = copy.deepcopy(model)
            for block in RESNEAT.blocks(changed):
                getattr(block.attn, name).weight.mul_(-1)
            assert (changed(images) - before).abs().max() > 1e-2 * before.abs().max()


def test_zero_init_last():
    """As in the twin: by default the last norm of each block starts at zero, so a block is ReLU(shortcut)."""
    for zero_init_last in (True, False):
        model = RESNEAT.create(zero_init_last=zero_init_last)
        twin = timm.create_model("resnext50_32x4d", zero_init_last=zero_init_last)
        assert all(bool(block.attn.norm.weight.any()) is not zero_init_last for block in RESNEAT.blocks(model))
        assert bool(twin.layer1[0].bn3.weight.any()) is not zero_init_last
    block, x = RESNEAT.create().layer1[1], torch.randn(2, 256, 8, 8)
    assert torch.equal(block.eval()(x), F.relu(x))


@pytest.mark.parametrize("stride", [8, 16, 32])
def test_output_stride_is_the_twins(stride):
    def geometry(net):
        convs = [(k, m) for k, m in net.named_modules() if isinstance(m, nn.Conv2d)]
        kept = [(k, m) for k, m in convs if k.split(".")[-1] in ("conv1", "conv2") or "downsample" in k]
        return {k: (m.stride, m.padding, m.dilation, m.kernel_size, m.groups) for k, m in kept}

    images = torch.randn(1, 3, 64, 96, device="meta")
    nets = [timm.create_model(n, output_stride=stride, device="meta") for n in ("resneat50", "resnext50_32x4d")]
    assert geometry(nets[0]) == geometry(nets[1])
    assert nets[0].feature_info == nets[1].feature_info
    assert max(info["reduction"] for info in nets[0].feature_info) == stride
    assert nets[0].forward_features(images).shape == nets[1].forward_features(images).shape
    encoder = timm.create_model("resneat50", output_stride=stride, features_only=True)
    for tap, reduction in zip(encoder(torch.randn(1, 3, 64, 96)), encoder.feature_info.reduction(), strict=True):
        assert tap.shape[-2:] == (64 // reduction, 96 // reduction)


def test_drop_path_rate_is_the_twins():
    nets = [timm.create_model(n, drop_path_rate=0.2, device="meta") for n in ("resneat50", "resnext50_32x4d")]
    rates = [
        [
            getattr(block.drop_path, "drop_prob", None)
            for stage in range(1, 5)
            for block in getattr(net, f"layer{stage}")
        ]
        for net in nets
    ]
    assert rates[0] == rates[1] and rates[0][-1] == pytest.approx(0.2)


def test_dropped_resneat_block_is_its_shortcut():
    block = lively(RESNEAT.create(drop_path_rate=0.5)).layer2[1].train()
    x = torch.randn(64, 512, 2, 2)
    block.drop_path.drop_prob = 1.0
    assert torch.equal(block(x), F.relu(x))
    block.drop_path.drop_prob = 0.5
    kept = (block(x) != F.relu(x)).flatten(1).any(1)
    assert 12 < kept.sum() < 52  # whole images are dropped, about half of them


# Inception-Res-PA


def pa_block(block: PreActResidual, x: torch.Tensor) -> torch.Tensor:
    """Figure 6, right, and the equation of 2.3: x + scale * F(BN-ReLU(x)), reading 6."""
    h = F.relu(batch_norm(x, block.norm_act))
    parts = []
    for branch in block.branches:
        part = h
        for step, module in enumerate(branch):
            if step % 2 == 0:  # a convolution; between two of them BN-ReLU
                kernel = module.kernel_size
                part = F.conv2d(part, module.weight, padding=(kernel[0] // 2, kernel[1] // 2))
            else:
                part = F.relu(batch_norm(part, module))
        parts.append(part)
    h = F.relu(batch_norm(torch.cat(parts, 1), block.norm_act_out))
    return x + block.scale * F.conv2d(h, block.conv2d.weight, block.conv2d.bias)


PA_BLOCKS = {"repeat.0": 0.17, "repeat_1.19": 0.10, "repeat_2.8": 0.20, "block8.0": 1.0}


@pytest.fixture(scope="module")
def pa_model():
    torch.manual_seed(0)
    return lively(PA.create())


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("path", "scale"), PA_BLOCKS.items())
def test_pa_block_is_the_formula(pa_model, path, scale, training):
    block = copy.deepcopy(pa_model.get_submodule(path)).train(training)
    assert block.scale == scale
    x = torch.randn(2, block.conv2d.out_channels, 5, 5)
    assert_same(block(x), pa_block(block, x), 1e-5)
    assert (block(x) < 0).any(), "no ReLU after the addition"


@pytest.mark.parametrize("path", PA_BLOCKS)
def test_pa_shortcut_is_the_identity(pa_model, path):
    """With a zero last convolution, the block and its gradient are the identity, bit for bit."""
    block = copy.deepcopy(pa_model.get_submodule(path)).train()
    nn.init.zeros_(block.conv2d.weight)
    nn.init.zeros_(block.conv2d.bias)
    x = torch.randn(2, block.conv2d.out_channels, 5, 5, requires_grad=True)
    upstream = torch.randn_like(x)
    out = block(x)
    assert torch.equal(out, x)
    assert torch.equal(torch.autograd.grad(out, x, upstream)[0], upstream)


@pytest.mark.parametrize("path", PA_BLOCKS)
def test_pa_every_convolution_follows_batch_norm_and_relu(pa_model, path):
    """The leaf modules of a block run in the order BN, ReLU, convolution; the shared BN-ReLU comes first, once."""
    block = copy.deepcopy(pa_model.get_submodule(path))
    inputs, produced = {}, {}
    for name, module in block.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(lambda _, args, name=name: inputs.update({name: args[0]}))
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(lambda _, args, out, name=name: produced.update({name: out}))
    with torch.no_grad():
        block(torch.randn(2, block.conv2d.out_channels, 5, 5))
    norms = {name: next((n for n, out in produced.items() if out is fed), None) for name, fed in inputs.items()}
    assert norms.pop("conv2d") == "norm_act_out"
    for name, norm in norms.items():
        branch, step = (int(part) for part in name.split(".")[1:])
        assert norm == ("norm_act" if step == 0 else f"branches.{branch}.{step - 1}")
    assert all((fed >= 0).all() for fed in inputs.values())
    assert len(produced) == 2 + sum(len(branch) // 2 for branch in block.branches)


def test_pa_runs_are_closed_once(pa_model):
    """10, 20 and 9 + 1 blocks; BN-ReLU after each run, none between the last two members; norms as in timm's model."""
    runs = {name: getattr(pa_model, name) for name in ("repeat", "repeat_1", "repeat_2", "block8")}
    assert all(isinstance(run, ResidualRun) for run in runs.values())
    counts = {name: sum(isinstance(m, PreActResidual) for m in run) for name, run in runs.items()}
    assert counts == {"repeat": 10, "repeat_1": 20, "repeat_2": 9, "block8": 1}
    for name, run in runs.items():
        closed = isinstance(run[-1], nn.BatchNorm2d)
        assert closed is (name != "repeat_2")
        assert len(run) == counts[name] + closed
        x = torch.randn(1, run[0].conv2d.out_channels, 3, 3)
        with torch.no_grad():
            assert bool((run(x) >= 0).all()) is closed
    assert {module.eps for module in pa_model.modules() if isinstance(module, nn.BatchNorm2d)} == {1e-3}


@pytest.mark.parametrize("stride", [8, 16, 4])
def test_pa_refuses_other_output_strides(stride):
    with pytest.raises(ValueError, match=f"output_stride={stride}: .*32"):
        timm.create_model("inception_resnet_pa", output_stride=stride)
    assert timm.create_model("inception_resnet_pa", output_stride=32, device="meta") is not None


def test_dropped_pa_block_is_its_input():
    block = lively(PA.create(drop_path_rate=0.5)).repeat_1[3].train()
    x = torch.randn(64, 1088, 2, 2)
    block.drop_path.drop_prob = 1.0
    assert torch.equal(block(x), x)
    block.drop_path.drop_prob = 0.5
    kept = (block(x) != x).flatten(1).any(1)
    assert 12 < kept.sum() < 52
