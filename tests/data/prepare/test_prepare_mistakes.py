"""Wrong uses of ``prepare``: one line that names the option, exit code 2, and nothing is written."""

import pytest
from prepare_helpers import prepare

WRONG = {
    "no images": (["--metadata", "{csv}", "--output", "{out}"], "--images"),
    "no such metadata": (["--metadata", "none.csv", "--images", "{images}", "--output", "{out}"], "no such file"),
    "no such images": (["--metadata", "{csv}", "--images", "nowhere", "--output", "{out}"], "nowhere"),
    "no such own folder": (["--images", "nowhere", "--output", "{out}"], "nowhere"),
    "other release": (["--metadata", "{csv}", "--images", "{empty}", "--output", "{out}"], "none of the 48"),
    "all excluded": (
        ["--metadata", "{csv}", "--images", "{images}", "--output", "{out}", "--exclude", "100", "101", "102"],
        "1 class",
    ),
    "no split": (
        ["--metadata", "{csv}", "--images", "{images}", "--output", "{out}", "--split", "0", "0", "0"],
        "--split",
    ),
    "a file as output": (["--metadata", "{csv}", "--images", "{images}", "--output", "{csv}"], "is a file"),
    "shards kept without a download": (
        ["--metadata", "{csv}", "--images", "{images}", "--output", "{out}", "--keep-shards"],
        "--download",
    ),
    "bad size": (["--images", "{images}", "--output", "{out}", "--size", "0"], "'0' must be 8 to 4096 pixels"),
    "no number": (
        ["--images", "{images}", "--output", "{out}", "--cap", "ten"],
        "'ten' must be a whole number, at least 1",
    ),
    "bad ratio": (["--images", "{images}", "--output", "{out}", "--ratio", "1.5"], "--ratio"),
    "no attribution": (
        ["--metadata", "{csv}", "--images", "{images}", "--output", "{out}", "--attribution", "absent.csv"],
        "absent.csv",
    ),
    "address with a space": (
        ["--download", "--output", "{out}", "--base-url", "http://my host/x"],
        "--base-url http://my host/x: not an address",
    ),
    "both draws": (["--images", "{images}", "--output", "{out}", "--ratio", "0.5", "--cap", "9"], "--cap"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_use_is_one_clear_line(source, tmp_path, capfd, case):
    (tmp_path / "empty").mkdir()
    arguments, said = WRONG[case]
    places = {"csv": source[0], "images": source[1], "out": tmp_path / "out", "empty": tmp_path / "empty"}
    try:
        code = prepare(*[argument.format(**places) for argument in arguments])
    except SystemExit as stop:  # argparse's own
        code = stop.code
    error = capfd.readouterr().err
    assert code == 2 and said in error.splitlines()[-1] and "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_a_mistake_in_the_current_folder_is_named_and_the_folder_stays(source, tmp_path, capfd, monkeypatch):
    (tmp_path / "bad.csv").write_text("id,foo\n1,2\n")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert prepare("--metadata", "../bad.csv", "--images", str(source[1]), "--output", ".") == 2
    assert "id,foo" in capfd.readouterr().err and list((tmp_path / "here").iterdir()) == []
