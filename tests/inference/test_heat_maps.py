"""Heat maps: equal to Grad-CAM by hand, drawn where the network looked, and without a trace in the model."""

import copy

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from run_helpers import TINY
from timm.data import create_transform

from timm_landmark.data.synthetic.synthesize import landmark, view_mask
from timm_landmark.inference import heat_maps as module
from timm_landmark.inference.heat_maps import find_stages, is_available, load_explainer, overlay, uncropped
from timm_landmark.inference.photos import squashed
from timm_landmark.layers import ChannelAttention2d
from timm_landmark.layers.attention_path import force_path
from timm_landmark.utils.errors import UserError

# The deepest layer with a map of at least 4x4 cells at 96 pixels; the last of Inception has 1x1.
LAYERS = {
    "test_resnet": "layer3",
    "resneat50": "layer3",
    "densenet121": "features.denseblock3",
    "inception_resnet_pa": "repeat_1",
    "inception_resnet_v2": "repeat_1",
    "resnet50": "layer3",
    "resnext50_32x4d": "layer3",
    "seresnet50": "layer3",
    "resneat101": "layer3",
    "swin_tiny_patch4_window7_224": "layers.3",  # maps of shape (B, H, W, C)
}
QUICK = [pytest.param(name, marks=[] if number < 4 else pytest.mark.full) for number, name in enumerate(LAYERS)]
_models = {}


def net(name):
    """A model whose attention is not uniform and whose maps do not fade; made once."""
    if name not in _models:
        torch.manual_seed(0)
        model = timm.create_model(name, num_classes=5, **(TINY if name == "resneat50" else {}))
        for unit in model.modules():
            if isinstance(unit, ChannelAttention2d):
                for projection in (unit.query, unit.key):
                    torch.nn.init.normal_(projection.weight, std=3 * projection.weight.shape[1] ** -0.5)
        norms = [each for each in model.modules() if isinstance(each, torch.nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = 1.0
        with torch.no_grad():
            model.train()(torch.randn(4, 3, size_of(name), size_of(name)))
        for norm in norms:
            norm.momentum = 0.1
        _models[name] = model.eval()
    return _models[name]


def size_of(name):
    return 224 if name.endswith("224") else 96


def batch(name="test_resnet", images=3):
    generator = torch.Generator().manual_seed(1)
    size = size_of(name)
    coarse = torch.randn(images, 3, 6, 6, generator=generator)
    return F.interpolate(coarse, (size, size), mode="bicubic"), torch.tensor([4, 0, 2])[:images]


def by_hand(model, stage, images, classes):
    """Grad-CAM from hooks and plain operators in float64, each cell drawn around the pixels that it depends on."""
    model = copy.deepcopy(model).double()
    kept = []
    model.get_submodule(stage.layer).register_forward_hook(lambda _module, _inputs, output: kept.append(output.clone()))
    handle = model.get_submodule(stage.layer).register_forward_hook(lambda _module, _inputs, _output: kept[0])
    logits = model(images.double())
    handle.remove()
    (gradient,) = torch.autograd.grad(logits[range(len(classes)), classes].sum(), kept[0])
    maps = kept[0]
    if getattr(model, "output_fmt", "NCHW") == "NHWC":
        maps, gradient = (each.permute(0, 3, 1, 2) for each in (maps, gradient))
    cam = (maps * gradient.mean((2, 3), keepdim=True)).sum(1).relu().detach().numpy()
    offset, side = round(stage.start + 0.5 - stage.cell / 2), images.shape[-1]
    heat = []
    for each in cam:
        if not each.any():  # no place speaks for the class
            heat.append(np.zeros((side, side)))
            continue
        each = (each - each.min()) / (each.max() - each.min())
        span = stage.side * int(stage.cell)
        wide = F.interpolate(torch.from_numpy(each)[None, None], (span, span), mode="bilinear")[0, 0].numpy()
        wide = (wide - wide.min()) / (wide.max() - wide.min())
        places = [min(max(pixel - offset, 0), span - 1) for pixel in range(side)]
        heat.append(wide[np.ix_(places, places)])
    return np.stack(heat)


@pytest.mark.parametrize("name", QUICK)
def test_heat_is_that_of_grad_cam_by_hand(name):
    size = size_of(name)
    images, classes = batch(name)
    explainer = load_explainer(net(name), (3, size, size))
    assert explainer.layer == LAYERS[name]
    stage = next(each for each in find_stages(net(name), (3, size, size)) if each.layer == explainer.layer)
    assert stage.side >= 4
    heat = explainer.heat(images, classes)
    assert heat.shape == (3, size, size) and heat.dtype == np.float32 and heat.min() >= 0 and heat.max() <= 1
    expected = by_hand(net(name), stage, images, classes)
    assert sum(expected.std(axis=(1, 2)) > 0.1) >= 2, "the maps of the test are flat"
    np.testing.assert_allclose(heat, expected, atol=2e-3)
    other = explainer.heat(images, (classes + 1) % 5)
    assert np.abs(other - heat).max(axis=(1, 2)).max() > 0.3, "every class got the same heat"


def test_the_fast_paths_give_the_heat_of_the_plain_one():
    images, classes = batch("resneat50")
    model = net("resneat50")
    layer = load_explainer(model, (3, 96, 96)).layer
    later = list(dict(model.named_modules()))
    units = [n for n, unit in model.named_modules() if isinstance(unit, ChannelAttention2d)]
    assert later.index(units[-1]) > later.index(layer), "no attention unit takes part in the gradient"
    with force_path("plain"):
        plain = load_explainer(model, (3, 96, 96)).heat(images, classes)
    for path in ("product", "gram"):
        with force_path(path):
            fast = load_explainer(model, (3, 96, 96)).heat(images, classes)
        np.testing.assert_allclose(fast, plain, atol=1e-3)
    np.testing.assert_allclose(load_explainer(model, (3, 96, 96)).heat(images, classes), plain, atol=1e-3)


@pytest.mark.parametrize(
    ("size", "layer", "side"), [(128, "layer4", 4), (96, "layer3", 6), (64, "layer3", 4), (6, "act1", 3)]
)
def test_the_deepest_map_of_four_cells_is_used_else_the_largest(size, layer, side):
    explainer = load_explainer(net("test_resnet"), (3, size, size))
    stages = {stage.layer: stage.side for stage in find_stages(net("test_resnet"), (3, size, size))}
    assert (explainer.layer, stages[explainer.layer]) == (layer, side)


@pytest.mark.parametrize("name", QUICK[1:-1])
def test_cells_are_drawn_in_the_middle_of_what_they_depend_on(name):
    """Plain stretching would be off by half a cell in a ResNet."""
    size = 256
    stage = [each for each in find_stages(net(name), (3, size, size)) if each.side >= 8][-1]
    images = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0)).requires_grad_()
    kept = []
    handle = net(name).get_submodule(stage.layer).register_forward_hook(lambda _module, _inputs, out: kept.append(out))
    net(name)(images)
    handle.remove()
    cell = stage.side // 2
    (gradient,) = torch.autograd.grad(kept[0][0, :, cell, cell].sum(), images)
    weight = gradient.abs().sum((0, 1))
    for axis in (0, 1):
        place = (weight.sum(axis) * torch.arange(size)).sum() / weight.sum()
        assert place.item() == pytest.approx(stage.start + cell * stage.cell, abs=stage.cell / 4)


def test_one_hot_cell_lies_where_it_looks():
    images, classes = batch(images=1)
    explainer = load_explainer(net("test_resnet"), (3, 96, 96))
    twin = explainer._cam.model
    hot = torch.zeros(1, 1, 6, 6)
    hot[0, 0, 1, 4] = 1  # looks at row 16 and column 64
    twin.get_submodule(explainer.layer).register_forward_hook(
        lambda _module, _inputs, out: out.detach() * 0 + hot, prepend=True
    )
    heat = explainer.heat(images, classes)[0]
    if heat.max() == 0:  # the class's weight of the cell is negative
        heat = explainer.heat(images, (classes + 1) % 5)[0]
    rows, columns = np.nonzero(heat > 0.9)
    assert (rows.mean(), columns.mean()) == (pytest.approx(15.5, abs=1), pytest.approx(63.5, abs=1))


def test_the_model_is_left_as_it_was():
    model = copy.deepcopy(net("test_resnet"))
    model.layer1.train()
    model.fc.bias.requires_grad_(False)
    images, classes = batch()
    model(images).sum().backward()
    grads = {name: each.grad for name, each in model.named_parameters()}
    state = {name: each.clone() for name, each in model.state_dict().items()}
    load_explainer(model, (3, 96, 96)).heat(images, classes)
    assert [each.training for each in model.layer1.modules()] == [True] * len(list(model.layer1.modules()))
    assert not model.layer2.training
    for each in model.modules():
        assert not each._forward_hooks and not each._backward_hooks and not each._forward_pre_hooks
    for name, each in model.named_parameters():
        assert each.requires_grad == (name != "fc.bias") and each.grad is grads[name]
    assert all(torch.equal(each, state[name]) for name, each in model.state_dict().items())


def test_weights_are_shared_not_copied():
    model = copy.deepcopy(net("test_resnet"))
    twin = load_explainer(model, (3, 96, 96))._cam.model
    shared = {each.data_ptr() for each in model.parameters()}
    assert {each.data_ptr() for each in twin.parameters()} == shared
    assert not any(each.requires_grad for each in twin.parameters())


def test_a_batch_gives_the_heat_of_each_image_alone_in_inference_mode_too():
    images, classes = batch()
    explainer = load_explainer(net("test_resnet"), (3, 96, 96))
    together = explainer.heat(images, classes)
    with torch.inference_mode():
        again = explainer.heat(images * 1, classes)
        alone = [explainer.heat(images[row : row + 1], classes[row : row + 1])[0] for row in range(3)]
    np.testing.assert_array_equal(again, together)
    np.testing.assert_allclose(np.stack(alone), together, atol=1e-4)
    assert explainer.heat(images[:0], classes[:0]).shape == (0, 96, 96)
    assert explainer._cam.outputs is None and not explainer._cam.activations_and_grads.activations


def test_shapes_that_do_not_fit_are_refused():
    images, classes = batch()
    explainer = load_explainer(net("test_resnet"), (3, 96, 96))
    for wrong in ((images[..., :64, :64], classes), (images, classes[:2]), (images[:, :1], classes)):
        with pytest.raises(ValueError, match="must be"):
            explainer.heat(*wrong)


def test_a_model_without_maps_and_an_oblong_input_are_refused():
    with pytest.raises(UserError, match=r"VisionTransformer has none .* convolutional"):
        load_explainer(timm.create_model("test_vit", num_classes=3), (3, 160, 160))
    with pytest.raises(UserError, match="Linear has none"):
        load_explainer(torch.nn.Linear(8, 2), (3, 8, 8))
    with pytest.raises(UserError, match="96x64"):
        load_explainer(net("test_resnet"), (3, 96, 64))


def test_without_the_extra_the_command_is_named(monkeypatch):
    assert is_available()
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    assert not is_available()
    with pytest.raises(UserError, match=r"pip install 'timm-landmark\[explain\]'"):
        load_explainer(net("test_resnet"), (3, 96, 96))


def test_an_extra_that_cannot_be_imported_is_told(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pytorch_grad_cam", None)
    monkeypatch.setattr(module, "find_spec", lambda name: name)
    with pytest.raises(UserError, match=r"cannot be imported .*pytorch_grad_cam.* pip install"):
        load_explainer(net("test_resnet"), (3, 96, 96))


@pytest.mark.parametrize("crop_pct", [0.875, 0.9, 0.6, 1.0, 1.2])
@pytest.mark.parametrize("size", [(300, 150), (90, 200), (110, 110)])
def test_heat_is_put_back_where_the_photo_was_seen(crop_pct, size):
    """What the real transform makes of a white rectangle, taken as heat, must fall on the rectangle again."""
    photo = Image.new("RGB", size)
    box = [round(share * side) for share, side in zip((0.25, 0.55, 0.5, 0.85), size * 2, strict=True)]
    photo.paste("white", tuple(box))
    transform = create_transform((3, 96, 96), crop_pct=crop_pct, interpolation="bilinear", mean=(0,) * 3, std=(1,) * 3)
    heat = uncropped(transform(squashed(photo)).numpy()[0], crop_pct)
    spread = np.asarray(Image.fromarray(np.nan_to_num(heat)).resize(size, Image.Resampling.BILINEAR)) > 0.5
    white = np.asarray(photo)[..., 0] > 127
    seen = np.asarray(Image.fromarray(np.isfinite(heat)).resize(size))
    both, either = (spread & white).sum(), (spread | (white & seen)).sum()
    assert both / either > 0.93
    assert np.isfinite(heat).all() == (crop_pct >= 1)


def test_the_overlay_colours_the_hot_corner_of_what_was_seen():
    heat = np.zeros((96, 96), np.float32)
    heat[:24, 72:] = 1  # top right of the network's view
    photo = Image.new("RGB", (218, 436), (40, 160, 90))
    drawn = np.asarray(overlay(photo, uncropped(heat, 0.875)), np.int64)  # the view ends 12 and 24 pixels from the edge
    assert drawn.shape == (436, 218, 3)
    grey = int(np.asarray(photo.convert("L"))[0, 0])
    hot = np.ptp(drawn, axis=-1) > 60
    rows, columns = np.nonzero(hot)
    assert abs(rows.min() - 24) <= 2 and abs(rows.max() - (24 + 96)) <= 3
    assert abs(columns.max() - (218 - 14)) <= 2 and abs(columns.min() - (218 - 14 - 48)) <= 3
    assert (drawn[300, 100] == grey).all(), "a cold place is the photo in grey"
    assert (drawn[:20] < 0.5 * grey).all() and (drawn[:, -10:] < 0.5 * grey).all(), "the margin is dark"


def ratio_on_landmark(model, images, classes, masks):
    heat = load_explainer(model, tuple(images.shape[1:])).heat(images, classes)
    on = (heat * masks).sum((1, 2)) / masks.sum((1, 2))
    off = (heat * (1 - masks)).sum((1, 2)) / (1 - masks).sum((1, 2))
    return float(on.mean() / off.mean())


def test_heat_is_on_the_landmark_after_training_and_not_before():
    """Silhouettes of procedural landmarks, whose class is a colour, on a background of noise."""
    model = landmark(0, 3)
    rendered = [np.asarray(view_mask(model, 0, 3, number, 64), np.float32) / 255 for number in range(40)]
    masks = np.stack([mask for mask in rendered if 0.03 < mask.mean() < 0.3])
    generator = torch.Generator().manual_seed(0)
    truth = torch.arange(len(masks)) % 3
    tint = torch.eye(3)[truth][:, :, None, None] * 2 - 1
    shape = torch.from_numpy(masks)[:, None]
    images = torch.randn(len(masks), 3, 64, 64, generator=generator) * (1 - shape) + tint * shape
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=3)
    before = ratio_on_landmark(copy.deepcopy(network), images, truth, masks)
    optimizer = torch.optim.Adam(network.parameters(), 2e-3)
    for _ in range(30):
        loss = F.cross_entropy(network(images), truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (network.eval()(images).argmax(1) == truth).float().mean() > 0.9
    after = ratio_on_landmark(network, images, truth, masks)
    assert after > 2 > 1.5 > before, (before, after)
