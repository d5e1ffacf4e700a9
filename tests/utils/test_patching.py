"""``replaced``: the original is restored, also after an error."""

import types

import pytest

from timm_landmark.utils.patching import replaced


def test_the_original_comes_back():
    module = types.SimpleNamespace(name="original")
    with replaced(module, "name", "other"):
        assert module.name == "other"
    assert module.name == "original"
    with pytest.raises(KeyError), replaced(module, "name", "other"):
        raise KeyError
    assert module.name == "original"
    with pytest.raises(AttributeError), replaced(module, "absent", "other"):
        pass
