"""Shared by all tests: a fixed seed, and readable assertions in the helper modules."""

import logging
import sys

import pytest

pytest.register_assert_rewrite("model_cases")


@pytest.fixture(autouse=True)
def seeded():
    """The same random numbers in any order of tests; torch is not imported for tests that do not need it."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(autouse=True)
def gradients_stay_enabled():
    """A test that leaves gradients disabled or a trace open fails itself, not the tests after it in this process."""
    yield
    if (torch := sys.modules.get("torch")) is None:
        return
    left = torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.jit.is_tracing()
    torch.set_grad_enabled(True)
    torch._C._set_tracing_state(None)
    assert left == (True, False, False), f"gradients enabled, inference mode, tracing: {left}"


@pytest.fixture(autouse=True)
def no_log_on_the_terminal():
    """Removes the log handler that timm's train.py leaves in this process: the next test may read the terminal."""
    root, level = logging.getLogger(), logging.getLogger().level
    yield
    for handler in [handler for handler in root.handlers if type(handler) is logging.StreamHandler]:
        root.removeHandler(handler)
    root.setLevel(level)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds ``--path``: the model contract must hold on every path of the attention unit."""
    parser.addoption("--path", choices=("plain", "product", "gram"), help="hold every attention unit to this form")


@pytest.fixture(autouse=True)
def forced_path(pytestconfig: pytest.Config):
    """Forces the path given with ``--path`` in this process; the timm suite passes it on to its own process."""
    if not (path := pytestconfig.getoption("path")):
        yield
        return
    from timm_landmark.layers.attention_path import force_path

    with force_path(path):
        yield
