"""Counts: operators that fvcore ignores are counted or reported, and the formulas agree with the modules."""

import subprocess
import sys

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from timm_landmark.accounting.macs import (
    attention_unit_macs,
    build,
    convolution_weights,
    count_macs,
    count_macs_by_torch,
    count_model,
    count_parameters,
)
from timm_landmark.accounting.units import closed_form, depth, table_1, unit_weights
from timm_landmark.layers import ChannelAttention2d, attention_path
from timm_landmark.utils.errors import UserError


class Function(nn.Module):
    """A module around a function of the input."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def tokens(x):
    return x.flatten(2)  # (1, 4, 6, 6) -> (1, 4, 36)


CASES = {
    "convolution": (nn.Conv2d(4, 8, 3, padding=1, groups=2), 8 * 2 * 9 * 36, 0, 0),
    "strided convolution": (nn.Conv2d(4, 8, 3, stride=2), 8 * 4 * 9 * 4, 0, 0),
    "string padding": (nn.Conv2d(4, 8, (1, 7), padding="same"), 8 * 4 * 7 * 36, 0, 0),
    "transposed convolution": (nn.ConvTranspose2d(4, 8, 2, stride=2), 8 * 4 * 4 * 36, 0, 0),
    "linear": (nn.Sequential(nn.Flatten(), nn.Linear(144, 5)), 0, 144 * 5, 0),
    "linear over tokens": (nn.Sequential(nn.Flatten(2), nn.Linear(36, 5)), 0, 4 * 36 * 5, 0),
    "broadcast matmul": (Function(lambda x: torch.ones(7, 4) @ tokens(x)), 0, 7 * 4 * 36, 0),
    "bmm": (Function(lambda x: torch.bmm(tokens(x), tokens(x).transpose(1, 2))), 0, 4 * 36 * 4, 0),
    "baddbmm": (
        Function(lambda x: torch.baddbmm(torch.zeros(1, 4, 4), tokens(x), tokens(x).transpose(1, 2))),
        0,
        4 * 36 * 4,
        0,
    ),
    "addmm": (Function(lambda x: torch.addmm(torch.zeros(4, 4), tokens(x)[0], tokens(x)[0].T)), 0, 4 * 36 * 4, 0),
    "matrix times vector": (Function(lambda x: tokens(x)[0] @ torch.ones(36)), 0, 4 * 36, 0),
    "einsum of two": (Function(lambda x: torch.einsum("bcs,bds->bcd", tokens(x), tokens(x))), 0, 4 * 36 * 4, 0),
    "einsum of three": (
        Function(lambda x: torch.einsum("bcs,bds,bd->bc", tokens(x), tokens(x), torch.ones(1, 4))),
        0,
        4 * 36 * 4 + 4 * 4,
        0,
    ),
    "attention": (Function(lambda x: F.scaled_dot_product_attention(*[tokens(x)] * 3)), 0, 0, 2 * 4 * 4 * 36),
    "element-wise": (nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Softmax(1), nn.Sigmoid()), 0, 0, 0),
}


@pytest.mark.parametrize("case", CASES)
def test_every_operator_costs_its_products(case):
    module, convolution, matmul, attention = CASES[case]
    counted = count_macs(module, torch.randn(1, 4, 6, 6))
    assert (counted.convolution, counted.matmul, counted.attention) == (convolution, matmul, attention)
    assert counted.macs == convolution + matmul + attention
    assert counted.uncounted == {}


def test_operator_nobody_counts_is_named():
    counted = count_macs(nn.Sequential(nn.Flatten(2), nn.LSTM(36, 3)), torch.randn(1, 4, 6, 6))
    assert counted.uncounted == {"aten::lstm": 1}


def test_einsum_that_cannot_be_read_is_named():
    counted = count_macs(
        Function(lambda x: torch.einsum("...c,dc->...d", x, torch.ones(5, 6))), torch.randn(1, 4, 6, 6)
    )
    assert counted.uncounted == {"aten::einsum": 1}


def test_custom_function_is_named():
    class Twice(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x @ x

        @staticmethod
        def backward(ctx, gradient):
            return gradient

    counted = count_macs(Function(Twice.apply), torch.randn(1, 4, 6, 6))
    assert counted.uncounted == {"prim::PythonOp.Twice": 1}


def test_norm_and_pool_make_up_the_difference_to_fvcores_default():
    from fvcore.nn import FlopCountAnalysis

    model, x = build("resnet18", 64)
    counted = count_macs(model, x)
    assert counted.macs + counted.norm_and_pool == FlopCountAnalysis(model, x).unsupported_ops_warnings(False).total()
    assert counted.norm_and_pool > 0


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "inception_resnet_pa", "resneat50"])
def test_torchs_counter_sees_the_same(name):
    model, x = build(name, 96 if "inception" in name else 64)
    with attention_path.force_path("plain"):
        counted, by_torch = count_macs(model, x), count_macs_by_torch(model, x)
    assert by_torch["convolution"] == counted.convolution
    assert by_torch["matmul"] in (counted.matmul, counted.matmul + counted.attention)


@pytest.mark.parametrize("size", [64, 97, 224])
@pytest.mark.parametrize("name", ["resnet50", "resnext50_32x4d", "resneat50"])
def test_closed_formula_equals_live_modules(name, size):
    row = count_model(name, size)
    assert (row.params, row.macs) == closed_form(name, size)
    assert row.uncounted == {}
    assert row.torch_agrees


def test_other_groups_and_classes_follow_the_formula():
    model = timm.create_model("resneat50", cardinality=16, base_width=8, num_classes=7)
    params, _ = closed_form("resneat50", groups=16, base_width=8, num_classes=7)
    assert count_parameters(model)[0] == params


def test_units_of_section_3_2_4():
    assert unit_weights() == {"resnet": 212_992, "resnext": 70_144, "resneat": 41_472}


def test_parameters_named_in_the_issue():
    row = count_model("resneat50", 64)
    assert row.params == 16_226_600
    assert row.params_without_classifier == 16_226_600 - 2048 * 1000 - 1000
    assert count_parameters(timm.create_model("inception_resnet_pa"))[0] == 55_941_960


def test_pre_activation_moves_norms_and_no_convolution():
    pa, v2 = build("inception_resnet_pa", 96), build("inception_resnet_v2", 96)
    assert convolution_weights(pa[0]) == convolution_weights(v2[0])
    assert count_macs(*pa).macs == count_macs(*v2).macs


def test_count_is_of_the_plain_form_and_the_fast_form_is_beside_it():
    row = count_model("resneat50", 64)
    model, x = build("resneat50", 64)
    plain, fast = attention_unit_macs(model, x, "plain"), attention_unit_macs(model, x)
    assert row.macs == closed_form("resneat50", 64)[1]
    assert row.macs - row.macs_spent == plain - fast > 0


def test_one_units_plain_formula_equals_its_trace():
    unit = ChannelAttention2d(16, 32, groups=4)
    x = torch.randn(1, 16, 5, 3)
    with attention_path.force_path("plain"):
        assert count_macs(unit, x).macs == attention_unit_macs(unit, x)


def test_table_1_and_depth():
    assert table_1("resneat50")["conv4"] == "1024x14x14 [1x1,512; 3x3,512,C=32; AU,1024,C=32] x6"
    assert [depth(name) for name in ("resnet50", "resneat50", "resneat101")] == [50, 50, 101]


def test_counting_leaves_the_model_as_it_was():
    model = timm.create_model("resneat50", num_classes=3).train()
    model.layer1[0].bn1.eval()  # a frozen layer stays frozen
    running = model.bn1.running_mean.clone()
    count_macs(model, torch.randn(1, 3, 64, 64))
    attention_unit_macs(model, torch.randn(1, 3, 64, 64))
    assert model.training and model.layer1[0].training and not model.layer1[0].bn1.training
    assert torch.equal(running, model.bn1.running_mean)
    assert not any(module._forward_hooks for module in model.modules())


def test_unknown_model_and_size_are_the_users_mistakes():
    with pytest.raises(UserError, match="resneat50"):
        count_model("resneat5")
    with pytest.raises(UserError, match="--img-size 100000000: no memory"):
        count_model("test_resnet", 100_000_000)
    with pytest.raises(UserError, match="--img-size"):
        count_model("inception_resnet_v2", 32)
    with pytest.raises(UserError, match="--img-size"):
        count_model("mixer_s32_224", 96)  # of fixed size


def test_import_does_not_load_fvcore_and_counting_is_silent():
    code = (
        "import sys, torch, timm_landmark.accounting.macs as a\n"
        "assert 'fvcore' not in sys.modules\n"
        "a.count_macs(torch.nn.Conv2d(3, 4, 1), torch.zeros(1, 3, 8, 8))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == done.stderr == ""


@pytest.mark.parametrize("path", ["product", "gram"])
def test_formula_of_the_streamed_forms_equals_what_they_run(path):
    from torch.utils.flop_counter import FlopCounterMode

    from timm_landmark.layers.streamed_attention import channel_attend

    unit, x = ChannelAttention2d(16, 32, groups=4), torch.randn(1, 16, 6, 5)
    weights = (unit.query.weight, unit.key.weight, unit.value.weight)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        channel_attend._init_fn(x, *weights, 4, path)  # the operator's body: counters do not look into operators
    parts = attention_path.channel_attention_macs(16, 32, 4, 6, 5, path)
    beyond = (
        parts["output"] + parts["weighting"]
    )  # the projection O is outside, and torch does not count matrix-vector products
    assert counter.get_total_flops() // 2 == sum(parts.values()) - beyond
