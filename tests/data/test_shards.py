import hashlib
import tarfile
from collections import Counter
from dataclasses import replace

import pytest
from data_helpers import COUNTS, jpeg, small_dataset
from prepare_helpers import command, small_source

from timm_landmark.cli import main
from timm_landmark.data import shards
from timm_landmark.data.layout import SPLITS, ManifestRow, read_dataset_info
from timm_landmark.data.shards import plan_shards, read_shard, sample_key, shard_holds, write_shard


def seen(dataset) -> Counter:
    return Counter((hashlib.sha256(image.tobytes()).hexdigest(), target) for image, target in dataset)


def test_timm_reads_the_same_images_and_labels_from_folders_and_shards(tmp_path):
    from timm.data import create_dataset

    manifest, _ = small_dataset(tmp_path / "folders")
    small_dataset(tmp_path / "shards", form="webdataset")
    names = (tmp_path / "folders/class_map.txt").read_text().split()
    for split in SPLITS:
        folders = create_dataset(
            "", root=tmp_path / "folders", split=split, class_map=str(tmp_path / "folders/class_map.txt")
        )
        tars = create_dataset("wds/", root=str(tmp_path / "shards"), split=split, is_training=False)
        assert len(tars) == len(folders) == 3 * COUNTS[split]
        assert seen(tars) == seen(folders)
        wanted = Counter(names.index(row.folder) for row in manifest if row.split == split)
        assert Counter(target for _, target in tars) == wanted
    for table in ("manifest.csv", "classes.csv"):
        assert (tmp_path / "folders" / table).read_bytes() == (tmp_path / "shards" / table).read_bytes()


def test_what_prepare_writes_reads_the_same_in_both_formats(tmp_path):
    from timm.data import create_dataset

    source = small_source(tmp_path / "source")
    for form in ("folder", "webdataset"):
        assert main(["prepare", *command(*source, tmp_path / form, "--format", form, "--size", "64")]) == 0
    assert read_dataset_info(tmp_path / "folder")["digest"] == read_dataset_info(tmp_path / "webdataset")["digest"]
    for split in SPLITS:
        class_map = str(tmp_path / "folder/class_map.txt")
        folders = create_dataset("", root=tmp_path / "folder", split=split, class_map=class_map)
        assert seen(folders) == seen(create_dataset("wds/", root=str(tmp_path / "webdataset"), split=split))


@pytest.mark.parametrize("workers", [1, 2])
def test_every_worker_gets_shards_and_every_sample_comes_once(tmp_path, workers):
    from timm.data import create_dataset, create_loader

    small_dataset(tmp_path / "data", form="webdataset")
    dataset = create_dataset("wds/", root=str(tmp_path / "data"), split="train", is_training=False)
    loader = create_loader(
        dataset, (3, 32, 32), 1, num_workers=workers, use_prefetcher=False, persistent_workers=False, crop_pct=1.0
    )
    batches = [(batch[0], int(targets[0])) for batch, targets in loader]
    assert len(batches) == 3 * COUNTS["train"]
    assert len({image.numpy().tobytes() for image, _ in batches}) == len(batches)
    assert Counter(target for _, target in batches) == dict.fromkeys(range(3), COUNTS["train"])


def test_training_mode_reads_whole_epochs(tmp_path):
    from timm.data import create_dataset

    small_dataset(tmp_path / "data", form="webdataset")
    dataset = create_dataset("wds/", root=str(tmp_path / "data"), split="train", is_training=True, batch_size=2)
    dataset.set_epoch(0)
    assert Counter(target for _, target in dataset) == dict.fromkeys(range(3), COUNTS["train"])


def test_tar_bytes_depend_on_the_images_only(tmp_path, monkeypatch):
    small_dataset(tmp_path / "one", form="webdataset")
    monkeypatch.setattr("time.time", lambda: 1e9)
    small_dataset(tmp_path / "two", form="webdataset")
    names = sorted(path.name for path in (tmp_path / "one").glob("*.tar"))
    assert len(names) == 3 * sum(COUNTS.values())  # fewer images than SHARES: one per shard
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    with tarfile.open(tmp_path / "one" / names[0]) as archive:
        assert {(member.mtime, member.uid, member.mode) for member in archive} == {(0, 0, 0o644)}


def rows(count: int, classes: int = 10) -> list[ManifestRow]:
    return [
        ManifestRow(f"{index:016x}", str(index % classes), f"{index % classes:04d}", "train", "", "")
        for index in sorted(range(count), key=lambda index: index % classes)
    ]


def test_plan_mixes_classes_and_depends_on_seed_and_ids_alone():
    plan = plan_shards(rows(40_000), seed=3)
    sizes = {len(members) for members in plan.values()}
    assert len(plan) == shards.SHARES and sizes == {416, 417}
    assert all(len({row.folder for row in members}) == 10 for members in plan.values())
    assert list(plan_shards(list(reversed(rows(40_000))), seed=3).values()) == list(plan.values())
    assert plan_shards(rows(40_000), seed=4) != plan
    assert len(plan_shards(rows(1000), seed=0)) == shards.SHARES
    assert len(plan_shards(rows(shards.SHARES * shards.SHARD_IMAGES + 1), seed=0)) == 2 * shards.SHARES
    assert plan_shards([], seed=0) == {}


def test_awkward_ids_survive(tmp_path):
    names = ["holiday/2024.08 (1)", ".hidden", "Zürich·é", "a" * 150, "0123456789abcdef"]
    members = [replace(rows(1)[0], image_id=name) for name in names]
    images = {name: jpeg(index) for index, name in enumerate(names)}
    write_shard(tmp_path / "train-000000.tar", members, {"0000": 7}, lambda row: images[row.image_id])
    with open(tmp_path / "train-000000.tar", "rb") as file:
        assert read_shard(file) == {sample_key(name): (7, images[name]) for name in names}
    import webdataset

    samples = list(webdataset.WebDataset(str(tmp_path / "train-000000.tar"), shardshuffle=False))
    assert [sample["jpg"] for sample in samples] == [images[name] for name in names]
    assert sample_key("0123456789abcdef") == "0123456789abcdef"


def test_a_failing_write_leaves_no_tar(tmp_path):
    def gone(row):
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_shard(tmp_path / "train-000000.tar", rows(1), {"0000": 0}, gone)
    assert not list(tmp_path.iterdir())


def test_a_shard_left_by_an_interrupted_run_is_used_only_if_it_is_the_planned_one(tmp_path):
    members, index = rows(3, classes=2), {"0000": 0, "0001": 1}
    path = tmp_path / "train-000000.tar"
    assert not shard_holds(path, members, index)
    write_shard(path, members, index, lambda row: jpeg(0))
    assert shard_holds(path, members, index)
    assert not shard_holds(path, members[:2], index)
    assert not shard_holds(path, members, {"0000": 1, "0001": 0})
    path.write_bytes(path.read_bytes()[:1500])
    assert not shard_holds(path, members, index)
