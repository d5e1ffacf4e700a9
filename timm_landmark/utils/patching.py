"""Replacing a name of another module for the length of a block."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def replaced(owner: object, name: str, value: object) -> Iterator[None]:
    """Sets ``owner.name`` to ``value`` and restores the original when the block ends, with or without an error.

    Args:
        owner: A module, a class or any other object.
        name: The attribute to replace; it must exist.
        value: What it is inside the block.
    """
    original = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, original)
