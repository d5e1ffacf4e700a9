"""Runs timm's own tests that select models by family or by name on this package's networks.

Not collected by itself: tests/models/test_timm_suite.py passes it to pytest. The folder that contains timm's
tests/test_models.py must be importable as ``tests``, so its parent must be on the path.
"""

import importlib

import pytest

suite = importlib.import_module("tests.test_models")  # timm's

NAMES = ("resneat50", "resneat101", "inception_resnet_pa")
ANY_SIZE = ("resneat50", "resneat101")  # these tests use 64 pixels, which is too small for unpadded convolutions


def of_timm(name: str):
    """A test function of timm; skips if this version has no such test."""
    if not hasattr(suite, name):
        pytest.skip(f"this timm's suite has no {name}")
    return getattr(suite, name)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("test", "arguments"),
    [
        ("test_model_forward_intermediates", (1,)),
        ("test_model_forward_intermediates_features", (1,)),
        ("test_prune_intermediate_layers_contract", ()),
        ("test_prune_intermediate_layers_params_used", ()),
        ("test_prune_intermediate_layers_last_feature", (True,)),
        ("test_forward_after_prune_intermediate_layers", ()),
    ],
)
def test_any_model(test, arguments, name):
    of_timm(test)(name, *arguments)


@pytest.mark.parametrize("name", ANY_SIZE)
@pytest.mark.parametrize(
    ("test", "arguments"),
    [
        ("test_head_hidden_size", ({},)),
        ("test_reset_classifier_keeps_pool", ()),
        ("test_features_only_grad_checkpointing_backward", ()),
        ("test_prune_to_stem_feature", ()),
    ],
)
def test_model_of_any_size(test, arguments, name):
    of_timm(test)(name, *arguments)


@pytest.mark.parametrize("name", NAMES)
def test_frozen_tensors(name):
    """Weights, inputs and outputs from the Hub: the model gives the same outputs as when they were frozen."""
    of_timm("test_model_inference")(f"{name}.gld_1k", 1)
