"""What a timm user expects of any timm model, beyond what timm's own test suite covers."""

import inspect
import re

import pytest
import timm
import torch
from model_cases import CLASSES, PA, RESNEAT, Case, assert_same, assert_same_gradients, gradients, lively
from timm.optim import param_groups_layer_decay
from torch import nn


@pytest.fixture(scope="class")
def shared(request) -> nn.Module:
    """One whole network in eval mode that no test may change."""
    torch.manual_seed(0)
    return lively(request.cls.case.create())


class ModelContract:
    """The contract; a subclass names the case."""

    case: Case

    def fresh(self) -> nn.Module:
        """A new network, equal to ``shared``, which the test may change."""
        torch.manual_seed(0)
        return lively(self.case.create())

    # creation

    def test_unknown_arguments_are_refused(self):
        for extra in (dict(), dict(features_only=True), dict(num_classes=0)):
            with pytest.raises(TypeError, match="no_such_argument"):
                timm.create_model(self.case.name, no_such_argument=1, device="meta", **extra)

    def test_pretrained_cfg(self, shared):
        cfg = shared.default_cfg
        assert cfg["hf_hub_id"] == f"timm-landmark/{self.case.name}.gld_1k"
        assert cfg["hf_hub_filename"] == "model.safetensors"
        assert (cfg["input_size"], cfg["crop_pct"], cfg["num_classes"]) == ((3, 224, 224), 0.875, 1000)
        assert cfg["first_conv"] == self.case.first_conv
        assert cfg["classifier"] == self.case.classifier
        assert timm.list_pretrained(self.case.name) == [f"{self.case.name}.gld_1k"]
        data = timm.data.resolve_data_config(model=shared)
        assert (data["input_size"], data["crop_pct"]) == ((3, 224, 224), 0.875)

    @pytest.mark.parametrize("chans", [1, 4])
    def test_in_chans(self, chans):
        model = self.case.create(in_chans=chans).eval()
        assert model.in_chans == chans
        assert model.get_submodule(self.case.first_conv).in_channels == chans
        with torch.no_grad():
            assert model(self.case.images(chans=chans)).shape == (2, CLASSES)

    def test_drop_rate_is_dropout_before_the_classifier(self):
        model = self.case.create(drop_rate=0.5)
        features = torch.ones(8, model.num_features, 2, 2)
        for change in (lambda: None, lambda: model.reset_classifier(3)):
            change()
            dropped = model.train().forward_head(features, pre_logits=True)
            assert set(dropped.unique().tolist()) == {0.0, 2.0}
            assert 0.45 < (dropped == 0).float().mean() < 0.55
            assert (model.eval().forward_head(features, pre_logits=True) == 1).all()

    def test_drop_path_rate_rises_over_the_blocks(self):
        blocks = self.case.blocks(self.case.create(drop_path_rate=0.3, device="meta"))
        rates = [getattr(block.drop_path, "drop_prob", 0.0) for block in blocks]
        assert rates == pytest.approx([0.3 * i / (len(blocks) - 1) for i in range(len(blocks))])
        assert all(
            not getattr(block.drop_path, "drop_prob", 0.0)
            for block in self.case.blocks(self.case.create(device="meta"))
        )

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
    def test_device_and_dtype(self, dtype):
        model = self.case.create(device="cpu", dtype=dtype).eval()
        tensors = [*model.parameters(), *model.buffers()]
        assert {tensor.dtype for tensor in tensors if tensor.is_floating_point()} == {dtype}
        assert {tensor.device.type for tensor in tensors} == {"cpu"}
        model.reset_classifier(3)
        with torch.no_grad():
            output = model(self.case.images().to(dtype))
        assert output.dtype == dtype and output.shape == (2, 3) and output.isfinite().all()

    def test_float64_gives_the_same_numbers(self, shared):
        images = self.case.images()
        with torch.no_grad():
            assert_same(shared(images), self.fresh().double()(images.double()))

    # head

    def test_forward_is_features_then_head(self, shared):
        images = self.case.images()
        with torch.no_grad():
            features = shared.forward_features(images)
            pre_logits = shared.forward_head(features, pre_logits=True)
            assert_same(pre_logits, features.mean((2, 3)))
            assert_same(shared.get_classifier()(pre_logits), shared(images))
            assert_same(shared.forward_head(features), shared(images))
        assert features.shape[1] == shared.num_features == self.case.channels[-1]
        assert pre_logits.shape[1] == shared.head_hidden_size
        assert shared.get_classifier() is shared.get_submodule(self.case.classifier)

    def test_num_classes_zero_gives_the_pre_logits(self, shared):
        images = self.case.images()
        model = self.case.create(num_classes=0)
        weights = {k: v for k, v in shared.state_dict().items() if not k.startswith(f"{self.case.classifier}.")}
        model.load_state_dict(weights)  # strict: nothing but the classifier is missing
        with torch.no_grad():
            expected = shared.forward_head(shared.forward_features(images), pre_logits=True)
            assert_same(model.eval()(images), expected)
        assert model.num_classes == 0 and isinstance(model.get_classifier(), nn.Identity)

    @pytest.mark.parametrize("pool", ["avg", "max", "avgmax", "catavgmax", ""])
    def test_global_pool(self, shared, pool):
        images = self.case.images()
        model = self.case.create(global_pool=pool, num_classes=0)
        model.load_state_dict(shared.state_dict(), strict=False)
        with torch.no_grad():
            features = shared.forward_features(images)
            average, most = features.mean((2, 3)), features.amax((2, 3))
            expected = {
                "avg": average,
                "max": most,
                "avgmax": (average + most) / 2,
                "catavgmax": torch.cat([average, most], 1),
                "": features,
            }[pool]
            assert_same(model.eval()(images), expected)
        assert model.head_hidden_size == expected.shape[1]

    def test_reset_classifier(self, shared):
        model = self.case.create(global_pool="max").double().train()
        features = torch.randn(2, model.num_features, 3, 3, dtype=torch.float64)
        model.reset_classifier(7)
        assert model.num_classes == 7 and model.forward_head(features).shape == (2, 7)
        assert_same(model.forward_head(features, pre_logits=True), features.amax((2, 3)))  # the pool is kept
        assert model.get_classifier().weight.dtype == torch.float64
        model.reset_classifier(7, "avg")
        assert_same(model.forward_head(features, pre_logits=True), features.mean((2, 3)))
        model.reset_classifier(0, "")
        assert_same(model.forward_head(features), features)
        assert inspect.signature(model.reset_classifier).parameters["global_pool"].default is None

    # features

    def test_feature_info(self, shared):
        assert tuple(info["num_chs"] for info in shared.feature_info) == self.case.channels
        assert tuple(info["reduction"] for info in shared.feature_info) == self.case.reductions
        twin = timm.create_model(self.case.twin, device="meta")
        assert shared.feature_info == twin.feature_info

    def test_features_only_taps_are_the_twins_places(self, shared):
        """Every wrapper of timm gives the maps of forward_intermediates, with the twin's sizes and channels."""
        images = self.case.images()
        twin = timm.create_model(self.case.twin, features_only=True, device="meta")
        sizes = [tap.shape for tap in twin(images.to("meta"))]
        with torch.no_grad():
            taps = shared.forward_intermediates(images, intermediates_only=True)
        assert [tap.shape for tap in taps] == sizes
        weights = shared.state_dict()
        for wrapper in ("list", "hook", "fx", "getter"):
            encoder = timm.create_model(self.case.name, features_only=True, feature_cls=wrapper).eval()
            prefix = re.compile(r"^(body|model|graph_module)\.")
            encoder.load_state_dict({key: weights[prefix.sub("", key)] for key in encoder.state_dict()})
            with torch.no_grad():
                for tap, expected in zip(encoder(images), taps, strict=True):
                    assert_same(tap, expected)
            assert tuple(encoder.feature_info.channels()) == self.case.channels, wrapper
            assert tuple(encoder.feature_info.reduction()) == self.case.reductions, wrapper

    @pytest.mark.parametrize("indices", [(0,), (1, 3), (2, 3, 4), (-1,)])
    def test_out_indices(self, indices):
        encoder = timm.create_model(self.case.name, features_only=True, out_indices=indices).eval()
        with torch.no_grad():
            taps = encoder(self.case.images())
        assert [tap.shape[1] for tap in taps] == [self.case.channels[i] for i in indices]
        assert encoder.feature_info.channels() == [self.case.channels[i] for i in indices]
        assert encoder.feature_info.reduction() == [self.case.reductions[i] for i in indices]

    def test_forward_intermediates(self, shared):
        images = self.case.images()
        with torch.no_grad():
            features = shared.forward_features(images)
            final, taps = shared.forward_intermediates(images)
            assert torch.equal(final, features) and torch.equal(taps[-1], features)
            for indices, wanted in ((2, [3, 4]), ([0, 2], [0, 2]), ([-1], [4]), ([1], [1])):
                for norm in (False, True):
                    final, some = shared.forward_intermediates(images, indices=indices, norm=norm)
                    assert torch.equal(final, features)
                    assert all(map(torch.equal, some, [taps[i] for i in wanted])) and len(some) == len(wanted)
                only = shared.forward_intermediates(images, indices=indices, stop_early=True, intermediates_only=True)
                assert all(map(torch.equal, only, [taps[i] for i in wanted])) and len(only) == len(wanted)
            stopped, _ = shared.forward_intermediates(images, indices=[3], stop_early=True)
            assert torch.equal(stopped, taps[3])
        with pytest.raises(AssertionError):
            shared.forward_intermediates(images, output_fmt="NLC")
        with pytest.raises(AssertionError):
            shared.forward_intermediates(images, indices=[5])

    def test_prune_intermediate_layers(self, shared):
        images = self.case.images()
        with torch.no_grad():
            taps = shared.forward_intermediates(images, intermediates_only=True)
        parameters = []
        for index, tap in enumerate(taps):
            model = self.fresh()
            assert list(model.prune_intermediate_layers([index])) == [index]
            with torch.no_grad():
                assert torch.equal(model.forward_features(images), tap)
                assert model.num_features == tap.shape[1]
                model.reset_classifier(7, "avg")
                assert model(images).shape == (2, 7)
            parameters.append(sum(parameter.numel() for parameter in model.parameters()))
        assert parameters == sorted(set(parameters)), "a later tap keeps more layers"
        model = self.fresh()
        model.prune_intermediate_layers([4], prune_head=False)
        with torch.no_grad():
            assert torch.equal(model(images), shared(images))

    # training

    def test_grad_checkpointing_gives_the_same_gradients(self):
        images = self.case.images()
        model = self.fresh().train()
        expected = gradients(model, images)
        calls = []
        for block in self.case.blocks(model):
            block.register_forward_pre_hook(lambda module, *_: calls.append(module))
        model.set_grad_checkpointing()
        assert_same_gradients(gradients(model, images), expected)
        assert len(calls) == 2 * len(self.case.blocks(model)), "every block runs again in the backward pass"
        calls.clear()
        model.set_grad_checkpointing(False)
        assert_same_gradients(gradients(model, images), expected)
        assert len(calls) == len(self.case.blocks(model))

    def test_layer_groups_cover_every_parameter_in_order(self):
        model = self.case.create(device="meta")
        names = [name for name, _ in model.named_parameters()]
        for coarse in (True, False):
            groups = timm.models.group_parameters(model, model.group_matcher(coarse=coarse), reverse=True)
            assert set(groups) == set(names)
            forward_order = [groups[name] for name in names]
            assert forward_order == sorted(forward_order), "layers that run later have higher numbers"
        decayed = param_groups_layer_decay(model, layer_decay=0.5)
        assert sum(len(group["params"]) for group in decayed) == len(names)
        scales = {group["lr_scale"] for group in decayed}
        assert max(scales) == 1 and len(scales) > len(self.case.blocks(model)) // 2

    def test_serves_as_segmentation_encoder(self):
        """Called as segmentation libraries call it: five maps that a decoder can merge, starting with the deepest."""
        encoder = timm.create_model(
            self.case.name, in_chans=3, pretrained=False, num_classes=0, features_only=True, out_indices=(0, 1, 2, 3, 4)
        ).train()
        maps = encoder(self.case.images())
        assert len(maps) == 5
        joined = maps[-1].mean(1, keepdim=True)
        for tap in reversed(maps[:-1]):
            joined = nn.functional.interpolate(joined, tap.shape[-2:]) + tap.mean(1, keepdim=True)
        joined.square().mean().backward()
        assert all(parameter.grad is not None for parameter in encoder.parameters())


class TestResNeAt(ModelContract):
    """resneat50: the twin is resnext50_32x4d."""

    case = RESNEAT


class TestInceptionResnetPa(ModelContract):
    """inception_resnet_pa: the twin is inception_resnet_v2."""

    case = PA
