"""The recipes: section 4.1 of the paper and fine-tuning, the same for all models, with options of timm's parser."""

import random
import shlex

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torchvision.transforms import functional
from train_cases import train_script

import timm_landmark  # noqa: F401
from timm_landmark.training.checks import options_of
from timm_landmark.training.stand_in import StandIn
from timm_landmark.training.timm_script import load_script
from timm_landmark.training.train import RECIPES, recipe_path

PAPER_MODELS = [
    "resnet50",
    "resnext50_32x4d",
    "densenet121",
    "inception_resnet_v2",
    "seresnet50",
    "inception_resnet_pa",
    "resneat50",
]


def recipe(name="paper"):
    return yaml.safe_load(recipe_path(name).read_text())


@pytest.mark.parametrize("name", RECIPES)
def test_there_are_two_and_they_name_no_model_and_no_weights(name):
    assert sorted(path.stem for path in recipe_path().parent.iterdir()) == sorted(RECIPES)
    assert not {"model", "input_size", "pretrained", "initial_checkpoint"} & recipe(name).keys()


def test_it_says_that_a_bare_train_py_has_another_rule():
    assert "a DIFFERENT rule" in recipe_path().read_text()


@pytest.mark.script
@pytest.mark.parametrize("model", PAPER_MODELS)
def test_the_documented_command_of_timms_script_is_understood(model):
    """The command in the recipe's header, for each of the seven models."""
    (line,) = [line for line in recipe_path().read_text().splitlines() if "python train.py" in line]
    options = shlex.split(line.lstrip("# "))[2:]
    parser = load_script(train_script()).parser
    parser.set_defaults(**recipe())
    words = {"MODEL": model, "N": "10"}
    args = parser.parse_args([words.get(word, word) for word in options if word not in ("-c", "paper.yaml")])
    assert (args.model, args.num_classes, args.opt, args.batch_size) == (model, 10, "adam", 64)


def test_the_papers_figures():
    values = recipe()
    stated = {"batch_size": 64, "epochs": 25, "opt": "adam", "opt_betas": [0.9, 0.999], "lr": 0.0005, "img_size": 224}
    unstated = {"weight_decay": 0.0, "warmup_epochs": 0, "smoothing": 0.0, "hflip": 0.5, "drop": 0.0}
    assert {**values, **stated, **unstated} == values
    assert not {"mixup", "cutmix", "aa"} & values.keys()


@pytest.mark.parametrize("name", RECIPES)
def test_every_key_is_known_to_the_stand_in(name):
    assert recipe(name).keys() <= options_of(StandIn().parser).keys()


@pytest.mark.script
@pytest.mark.parametrize("name", RECIPES)
def test_every_key_is_known_to_timms_script(name):
    known = options_of(load_script(train_script()).parser)
    for key, value in recipe(name).items():
        assert key in known
        if known[key].type is not None and value is not None:  # YAML values bypass the parser's types
            for one in value if isinstance(value, list) else [value]:
                assert isinstance(one, known[key].type), f"{key}: {value!r} is no {known[key].type.__name__}"


@pytest.mark.parametrize("size", [None, 96])
def test_input_and_normalisation_are_the_same_for_all(size):
    options = recipe() if size is None else {**recipe(), "img_size": size}
    seen = {
        str(resolve_data_config(options, pretrained_cfg=timm.get_pretrained_cfg(model).to_dict()))
        for model in PAPER_MODELS
    }
    assert len(seen) == 1
    assert f"'input_size': (3, {size or 224}, {size or 224})" in seen.pop()


def transform(training, size=224):
    values = {**recipe(), "img_size": size}
    config = resolve_data_config(values)
    if training:
        keys = ("scale", "ratio", "hflip", "color_jitter")
        more = {**{key: values[key] for key in keys}, "interpolation": values["train_interpolation"]}
        return create_transform(config["input_size"], is_training=True, use_prefetcher=True, **more)
    keys = ("interpolation", "crop_pct")
    return create_transform(config["input_size"], use_prefetcher=True, **{key: config[key] for key in keys})


def photo():
    pixels = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_the_random_crop_is_of_224_anywhere():
    random.seed(0)
    crop = transform(training=True).transforms[0]
    image, corners = photo(), set()
    for _ in range(2000):
        top, left, height, width = crop.get_params(image, crop.scale, crop.ratio)
        assert (height, width) == (224, 224)
        corners.add((top, left))
    for axis in zip(*corners, strict=True):
        assert set(axis) == set(range(33))


def test_the_whole_augmentation_is_crop_flip_and_colour_without_hue():
    steps = transform(training=True).transforms
    assert [type(step).__name__ for step in steps][:3] == [
        "RandomResizedCropAndInterpolation",
        "RandomHorizontalFlip",
        "ColorJitter",
    ]
    assert len(steps) == 4  # the last makes it a tensor
    assert steps[1].p == 0.5
    jitter = steps[2]
    assert jitter.brightness == jitter.contrast == jitter.saturation == (0.6, 1.4)
    assert jitter.hue is None


def test_validation_is_the_centre_crop_exactly():
    image = photo()
    seen = torch.as_tensor(transform(training=False)(image))
    assert torch.equal(seen, functional.pil_to_tensor(functional.center_crop(image, [224, 224])))


def test_other_sizes_keep_the_ratio():
    image = photo()
    seen = torch.as_tensor(transform(training=False, size=112)(image))
    assert torch.equal(seen, functional.pil_to_tensor(functional.center_crop(image.resize((128, 128), 2), [112, 112])))
    assert torch.as_tensor(transform(training=True, size=96)(image)).shape == (3, 96, 96)
