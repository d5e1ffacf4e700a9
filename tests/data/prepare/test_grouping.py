import random
import time

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from timm_landmark.data.prepare import grouping
from timm_landmark.data.prepare.grouping import crossing_groups, describe_groups, group_images, perceptual_hash


def distance(one: int, other: int) -> int:
    return (one ^ other).bit_count()


def picture(seed: int, size: int = 256) -> Image.Image:
    """A smooth random scene: noise of 1/f amplitude, as photos have."""
    rng = np.random.default_rng(seed)
    scene = sum(
        np.asarray(
            Image.fromarray(rng.random((cells, cells), dtype=np.float32)).resize((size, size), Image.Resampling.BICUBIC)
        )
        * (64 / cells)
        for cells in (4, 8, 16, 32)
    )
    scene = 255 * (scene - scene.min()) / np.ptp(scene)
    return Image.fromarray(scene.astype(np.uint8)).convert("RGB")


def plain_groups(hashes: dict[str, int], threshold: int) -> dict[str, str]:
    """The definition, pair by pair."""
    key = {name: name for name in hashes}
    changed = True
    while changed:
        changed = False
        for one in hashes:
            for other in hashes:
                if distance(hashes[one], hashes[other]) <= threshold and key[one] < key[other]:
                    key[other] = key[one]
                    changed = True
    return key


def clustered(count: int, clusters: int, flips: int, seed: int) -> dict[str, int]:
    rng = random.Random(seed)
    centres = [rng.getrandbits(64) for _ in range(clusters)]
    hashes = {}
    for index in range(count):
        bits = rng.choice(centres)
        for _ in range(rng.randint(0, flips)):
            bits ^= 1 << rng.randrange(64)
        hashes[f"{index * 7919 % 10007:05d}"] = bits
    return hashes


def test_hash_is_a_fixed_function_of_the_pixels():
    ramp = Image.fromarray((np.add.outer(np.arange(256), 2 * np.arange(256)) % 251).astype(np.uint8))
    assert perceptual_hash(ramp) == 12056989341905225966
    assert perceptual_hash(ramp.convert("RGB")) == perceptual_hash(ramp)
    assert 0 <= perceptual_hash(Image.new("RGB", (1, 1))) < 2**64


def test_hash_keeps_copies_near_and_other_scenes_far(tmp_path):
    scenes = [picture(seed) for seed in range(12)]
    hashes = [perceptual_hash(scene) for scene in scenes]
    far = [distance(one, other) for index, one in enumerate(hashes) for other in hashes[:index]]
    assert min(far) > grouping.THRESHOLD
    for scene, bits in zip(scenes, hashes, strict=True):
        scene.save(tmp_path / "copy.jpg", quality=30)
        copies = {
            "re-encoded": Image.open(tmp_path / "copy.jpg"),
            "smaller": scene.resize((90, 90), Image.Resampling.LANCZOS),
            "brighter": ImageEnhance.Brightness(scene).enhance(1.15),
            "a little cropped": scene.crop((2, 2, 254, 254)),
        }
        for name, copy in copies.items():
            assert distance(perceptual_hash(copy), bits) <= grouping.THRESHOLD, name


@pytest.mark.parametrize("threshold", [0, 1, 2, 5, 10, 11])
def test_groups_are_the_transitive_closure(threshold, monkeypatch):
    monkeypatch.setattr(grouping, "FLOOR", 1000)
    hashes = clustered(150, 40, 8, seed=threshold)
    groups = group_images(hashes, threshold)
    assert groups == plain_groups(hashes, threshold)
    shuffled = list(hashes.items())
    random.Random(1).shuffle(shuffled)
    assert group_images(dict(shuffled), threshold) == groups


def test_every_band_finds_its_pair():
    """Exactly THRESHOLD flipped bits, all in one band or spread over all: no placement is missed."""
    rng = random.Random(3)
    for trial in range(300):
        bits = rng.getrandbits(64)
        start = rng.randrange(64 - grouping.THRESHOLD)
        places = range(start, start + grouping.THRESHOLD) if trial % 2 else rng.sample(range(64), grouping.THRESHOLD)
        other = bits
        for place in places:
            other ^= 1 << place
        assert group_images({"a": bits, "b": other}) == {"a": "a", "b": "a"}
        assert group_images({"a": bits, "b": other}, grouping.THRESHOLD - 1) == {"a": "a", "b": "b"}


def test_a_chain_of_look_alikes_is_divided_but_equal_hashes_never():
    chain, bits = {}, 0
    for index in range(64):  # neighbours 2 bits apart, 4 after every 16th
        chain[f"{index:04d}"] = bits
        bits ^= (0b1111 if index % 16 == 15 else 0b11) << (index * 2 % 62)
    assert max(np.bincount(np.unique(list(group_images(chain).values()), return_inverse=True)[1])) <= 20
    series = {f"{index:04d}": 7 for index in range(100)}
    assert set(group_images(series).values()) == {"0000"}


def test_crossing_counts_torn_groups():
    groups = {"a": "a", "b": "a", "c": "c", "d": "d", "e": "d"}
    splits = {"a": "train", "b": "test", "c": "train", "d": "test", "e": "test"}
    assert crossing_groups(groups, splits) == (1, 2)
    assert "3 groups; 2 groups of near duplicates hold 4 images, the largest 2" in describe_groups(groups)
    assert group_images({}) == {}


def test_ten_thousand_images_of_one_class_take_seconds_and_cost_is_near_linear():
    def seconds(count: int) -> float:
        hashes = clustered(count, count // 2, 3, seed=5)
        start = time.process_time()
        group_images(hashes)
        return time.process_time() - start

    seconds(1000)
    small, large = seconds(5000), seconds(10000)
    assert large < 5
    assert large < 3.5 * small + 0.3
