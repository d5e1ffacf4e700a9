"""Image ids as file names, also on systems with other rules."""

import pytest
from prepare_helpers import command, encode, read_csv, scene, write_csv

from timm_landmark.cli import main
from timm_landmark.data.check import check_dataset
from timm_landmark.data.names import unusable_ids


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("con", "device"),
        ("NUL", "device"),
        ("com1.x", "device"),
        ("Lpt9", "device"),
        ("aux .b", "device"),
        ("CONOUT$", "device"),
        ("a/b", "'/'"),
        ("a\\b", r"'\\\\'"),
        ("a:b", "':'"),
        ("what?", r"'\?'"),
        ("a\rb", r"'\\r'"),
        ("x" * 252, "251 bytes"),
        ("ö" * 126, "251 bytes"),
    ],
)
def test_an_id_that_no_file_can_have_everywhere(name, why):
    import re

    reasons = unusable_ids([name, "fine"])
    assert list(reasons) == [name] and re.search(why, reasons[name])


def test_ids_that_are_names_everywhere():
    names = ["0123456789abcdef", "x" * 251, "com10", "console", "a.b", "a.", "a b", ".hidden", "nul-1", "Ünder", "-"]
    assert unusable_ids(names) == {}


@pytest.mark.parametrize("names", [["abc", "aBc"], ["ABC", "aBc"], ["über", "ÜBER"], ["u\u0308ber", "über"]])
def test_ids_alike_where_case_is_ignored(names):
    for order in (names, names[::-1]):
        reasons = unusable_ids(["other", *order])
        assert set(reasons) == set(names)
        assert all(repr(other) in reasons[name] for name, other in zip(names, names[::-1], strict=True))


def test_prepare_keeps_long_ids_and_lists_those_that_cannot_be_kept(tmp_path):
    """A photo whose name is too long for a temporary suffix must not end the run."""
    good = ["l" * 248, "m" * 251, *(f"{index:04x}" for index in range(30))]
    bad = ["nul", "aBcd", "abCD", "n" * 252]
    (tmp_path / "photos").mkdir()
    for index, name in enumerate([*good, *bad[:3]]):
        (tmp_path / "photos" / f"{name}.jpg").write_bytes(encode(scene(index)))
    csv = write_csv(tmp_path / "t.csv", {name: index % 2 for index, name in enumerate([*good, *bad])})
    assert main(["prepare", *command(csv, tmp_path / "photos", tmp_path / "data")]) == 0
    assert {row["image_id"] for row in read_csv(tmp_path / "data/manifest.csv")} == set(good)
    reasons = {row["image_id"]: row["reason"] for row in read_csv(tmp_path / "data/rejects.csv")}
    assert set(reasons) == set(bad) and all(reason.startswith("unusable id: ") for reason in reasons.values())
    assert check_dataset(tmp_path / "data") == []
