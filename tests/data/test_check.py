import shutil
import tarfile

import pytest
from data_helpers import small_dataset

from timm_landmark.data.check import check_dataset, read_sums, stored_name, write_sums
from timm_landmark.data.layout import data_digest
from timm_landmark.utils.errors import UserError
from timm_landmark.utils.files import sha256_file


@pytest.fixture(scope="module", params=["folder", "webdataset"])
def pristine(request, tmp_path_factory):
    data = tmp_path_factory.mktemp("pristine") / request.param
    small_dataset(data, form=request.param)
    return data


@pytest.fixture
def data(pristine, tmp_path):
    return shutil.copytree(pristine, tmp_path / pristine.name)


def some_image_file(data):
    return next(iter(sorted(data.glob("train*.tar")) or sorted(data.glob("train/*/*.jpg"))))


def test_a_whole_set_has_no_problem(data):
    assert check_dataset(data) == []
    shutil.move(data, data.with_name("elsewhere"))
    assert check_dataset(data.with_name("elsewhere")) == []


def test_every_flipped_byte_is_found(data):
    """Flips one byte in each kind of file, also in the checksums."""
    for path in [some_image_file(data), *(path for path in data.iterdir() if path.is_file())]:
        content = path.read_bytes()
        flipped = bytearray(content)
        flipped[len(flipped) // 2] ^= 1
        path.write_bytes(flipped)
        try:
            problems = check_dataset(data)
        except UserError as error:  # dataset.json is no longer JSON
            problems = [str(error)]
        if path.name == "sha256sums.txt":  # then the problem names the file whose line changed
            assert problems
        else:
            assert any(path.name in problem for problem in problems), path.name
        path.write_bytes(content)
    assert check_dataset(data) == []


def test_a_missing_and_a_foreign_file_are_named(data):
    image = some_image_file(data)
    image.unlink()
    (data / "train" / "0000").mkdir(parents=True, exist_ok=True)
    (data / "train" / "0000" / "holiday.jpg").write_bytes(b"mine")
    (data / "link").symlink_to("nowhere")
    problems = check_dataset(data)
    assert f"{image.relative_to(data).as_posix()}: missing" in problems
    assert any(problem.startswith("train/0000/holiday.jpg: unexpected") for problem in problems)
    assert any(problem.startswith("link: unexpected") for problem in problems)


@pytest.mark.parametrize("name", ["manifest.csv", "classes.csv", "rejects.csv", "sha256sums.txt", "class_map.txt"])
def test_a_missing_table_is_named(data, name):
    (data / name).unlink()
    assert any(name in problem for problem in check_dataset(data))


def edit(data, name, old, new):
    path = data / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    write_sums(data)  # with new checksums, the tables must still be found inconsistent


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("manifest.csv", ",train,", ",test,", "digest"),
        ("manifest.csv", ",train,", ",tain,", "split 'tain'"),
        ("manifest.csv", ",0001,", ",0009,", "class '0009'"),
        ("manifest.csv", ",101,0001", ",100,0001", "landmark 100 is not of class 0001"),
        ("classes.csv", ",6,2,3", ",5,2,3", "class 0000 has 5 images in train, manifest.csv has 6"),
        ("classes.csv", ",6,2,3", ",x,2,3", "does not fit the columns"),
        ("class_map.txt", "0000\n0001\n", "0001\n0000\n", "class_map.txt"),
        ("dataset.json", '"digest": "', '"digest": "0', "digest"),
    ],
)
def test_inconsistent_tables_are_named(data, name, old, new, said):
    edit(data, name, old, new)
    assert any(said in problem for problem in check_dataset(data))


def test_bytes_that_no_table_has_are_a_problem_and_no_traceback(data):
    (data / "class_map.txt").write_bytes(b"0000\n\xff\n")
    write_sums(data)
    assert check_dataset(data) == ["class_map.txt: does not list the classes of classes.csv in order"]
    sums = data / "sha256sums.txt"
    sums.write_bytes(sums.read_bytes() + b"0" * 64 + b"  a\x00b\n")
    assert any(problem.startswith("a") and "cannot be read" in problem for problem in check_dataset(data))
    (data / "dataset.json").write_text("[]")
    with pytest.raises(UserError, match=r"dataset\.json is not a JSON object"):
        check_dataset(data)


@pytest.mark.parametrize("column", range(5))
def test_the_digest_covers_every_column_but_the_source(data, column):
    manifest, digest = data / "manifest.csv", data_digest(data)
    lines = [line.split(",") for line in manifest.read_text().splitlines()]
    lines[3][column] += "0"
    manifest.write_text("".join(",".join(line) + "\n" for line in lines))
    assert data_digest(data) != digest
    lines[3][column] = lines[3][column][:-1]
    lines[3][5] = "elsewhere"
    manifest.write_text("".join(",".join(line) + "\n" for line in lines))
    assert data_digest(data) == digest


@pytest.mark.parametrize("content", [b"\xff", b"image_id,landmark_id\n"])
def test_a_manifest_that_cannot_be_read_is_named(data, content):
    (data / "manifest.csv").write_bytes(content)
    with pytest.raises(UserError, match=r"manifest\.csv"):
        data_digest(data)


def test_duplicates_and_rejects_in_the_manifest_are_named(data):
    lines = (data / "manifest.csv").read_text().splitlines(keepends=True)
    (data / "manifest.csv").write_text("".join([*lines, lines[-1]]))
    first = lines[1].split(",")[0]
    with open(data / "rejects.csv", "a") as file:
        file.write(f"{first},100,empty\n")
    write_sums(data)
    problems = check_dataset(data)
    assert any("is listed 2 times" in problem for problem in problems)
    assert any(f"image {first} is also in manifest.csv" in problem for problem in problems)


def test_labels_inside_shards_are_compared(tmp_path):
    manifest, images = small_dataset(tmp_path / "data", form="webdataset")
    from timm_landmark.data.shards import plan_shards, write_shard

    name, members = next(iter(plan_shards(manifest, 0).items()))
    write_shard(tmp_path / "data" / name, members, {"0000": 1, "0001": 2, "0002": 0}, lambda row: images[row.image_id])
    write_sums(tmp_path / "data")
    assert any(name in problem and "class index" in problem for problem in check_dataset(tmp_path / "data"))
    with tarfile.open(tmp_path / "data" / name, "w"):
        pass
    write_sums(tmp_path / "data")
    problems = check_dataset(tmp_path / "data")
    assert any("0 images, but _info.json lists 1" in problem for problem in problems)
    assert any("in no readable shard" in problem for problem in problems)


def test_images_moved_with_their_sums_are_found(tmp_path):
    manifest, _ = small_dataset(tmp_path / "data")
    row = next(row for row in manifest if row.split == "train")
    source = tmp_path / "data" / stored_name(row)
    source.rename(tmp_path / "data" / "test" / row.folder / source.name)
    write_sums(tmp_path / "data")
    problems = check_dataset(tmp_path / "data")
    assert any(stored_name(row) in problem and "not in sha256sums.txt" in problem for problem in problems)


def test_sums_are_those_of_sha256sum(data):
    sums = read_sums(data)
    assert "sha256sums.txt" not in sums
    assert all(sha256_file(data / name) == digest for name, digest in sums.items())
    (data / "sha256sums.txt").write_text("0123  x\n")
    assert any("line 1" in problem for problem in check_dataset(data))


def test_another_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="not a prepared data set"):
        check_dataset(tmp_path)
