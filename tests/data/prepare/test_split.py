"""The split depends only on seed, ids and groups of one class, has the right shares, and never divides a group."""

import random
from collections import Counter

import pytest

from timm_landmark.data.prepare.split import image_groups, sample, split_class


def names(count: int, prefix: str = "i") -> list[str]:
    return [f"{prefix}{number:04d}" for number in range(count)]


def test_by_image_the_shares_are_exact_and_the_order_does_not_matter():
    ids = names(80)
    first = split_class(image_groups(ids), (6, 1, 1), 0)
    assert Counter(first.values()) == {"train": 60, "validation": 10, "test": 10}
    random.Random(1).shuffle(ids)
    assert split_class(image_groups(ids), (6, 1, 1), 0) == first
    assert split_class(image_groups(ids), (6, 1, 1), 1) != first


def test_it_is_random():
    """Whether an image is in the test split does not depend on the order of ids."""
    splits = split_class(image_groups(names(800)), (6, 1, 1), 0)
    halves = Counter(name < "i0400" for name, split in splits.items() if split == "test")
    assert 30 <= halves[True] <= 70


@pytest.mark.parametrize("seed", range(5))
def test_groups_stay_on_one_side_and_shares_are_near(seed):
    rng = random.Random(seed)
    groups = {}
    while len(groups) < 200:
        key = f"g{len(groups)}"
        groups |= {f"{key}-{number}": key for number in range(rng.choice([1, 1, 1, 2, 5, 12]))}
    splits = split_class(groups, (2, 1, 1), seed)
    assert all(len({splits[name] for name in groups if groups[name] == key}) == 1 for key in set(groups.values()))
    counts = Counter(splits.values())
    assert abs(counts["train"] - len(groups) / 2) <= 1 and abs(counts["test"] - len(groups) / 4) <= 1


@pytest.mark.parametrize("count", range(3, 12))
def test_no_split_is_empty(count):
    assert set(split_class(image_groups(names(count)), (6, 1, 1), 0).values()) == {"train", "validation", "test"}


def test_one_large_group_goes_to_train_and_the_rest_is_shared():
    groups = dict.fromkeys(names(30, "big"), "big") | image_groups(names(2))
    assert Counter(split_class(groups, (6, 1, 1), 0).values()) == {"train": 30, "validation": 1, "test": 1}


def test_too_few_groups_is_none_and_a_weight_of_zero_is_left_out():
    assert split_class(image_groups(names(2)), (6, 1, 1), 0) is None
    assert split_class(dict.fromkeys(names(50), "all"), (6, 1, 1), 0) is None
    assert set(split_class(image_groups(names(2)), (3, 0, 1), 0).values()) == {"train", "test"}


def test_a_draw_is_random_and_repeats():
    drawn = sample(names(1000), 0, 0.1, None)
    assert len(drawn) == 100 and drawn == sample(names(1000)[::-1], 0, 0.1, None) != sample(names(1000), 1, 0.1, None)
    assert 30 <= sum(name < "i0500" for name in drawn) <= 70
    assert sample(names(10), 0, 0.1, 5) == sample(names(10), 0, None, 1)
