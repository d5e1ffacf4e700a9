"""Untrusted text in a terminal: it has no effect there, nothing is lost, and no name can fake a line."""

import ast
import io
import sys
from pathlib import Path

import pytest
from prepare_helpers import command, small_source

from timm_landmark import cli
from timm_landmark.utils.text import escaped, markdown, printable, say

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = "\x1b]0;title\x07 \x9b2J \u202egnirts\u2028 \u200b\r\n"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("two  spaces, \u00e9 \u6f22 \U0001f3f0\u00a0and \\n", "two  spaces, \u00e9 \u6f22 \U0001f3f0\u00a0and \\n"),
        ("\x1b[31m\x07\x9b\x7f\t", "\\x1b[31m\\x07\\x9b\\x7f\\t"),
        ("a\r\nb\u2028\u202ec\u200b", "a\\r\\nb\\u2028\\u202ec\\u200b"),
        (b"caf\xe9.jpg".decode("utf-8", "surrogateescape"), "caf\\xe9.jpg"),
        ("\ud800 alone", "\\ud800 alone"),
        (Path("a\x1b") / "b", str(Path("a\\x1b") / "b")),
    ],
)
def test_what_acts_is_written_out_and_all_else_stays(text, shown):
    assert escaped(text) == shown
    assert escaped(escaped(text)) == shown


def test_a_line_that_is_said_stays_one_line(capsys):
    say("first", f"name {HOSTILE}error: forged")
    say("apart", file=sys.stderr, end="")
    out, err = capsys.readouterr()
    assert out.count("\n") == 2 and out.isascii() and out.replace("\n", "").isprintable() and "gnirts" in out
    assert err == "apart"


def test_names_and_markdown_are_one_clean_line():
    assert printable(f"Big {HOSTILE} Ben") == "Big ]0;title 2J gnirts Ben"
    assert printable("x" * 50, 10) == "x" * 9 + "…"
    assert markdown("a|b\n<script>[x](http://y)</script>") == (
        r"a\|b &lt;script&gt;\[x\]\(http\:\/\/y\)&lt;\/script&gt;"
    )


def test_nothing_else_in_the_package_writes_to_a_terminal():
    found = []
    for file in sorted((ROOT / "timm_landmark").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if called in ("print", "sys.stdout.write", "sys.stderr.write", "tqdm.write", "progress.write", "bar.write"):
                found.append(f"{file.relative_to(ROOT).as_posix()}: {called}")
    assert found == ["timm_landmark/utils/text.py: print"]


@pytest.mark.parametrize("verb", cli.VERBS)
def test_no_option_that_is_refused_acts(verb, capsys):
    assert cli.main([verb, f"--no-such-option{HOSTILE}"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.strip().isprintable()
    assert cli.main([verb, f"none{HOSTILE}", "x", "--output", f"out{HOSTILE}"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.strip().isprintable()


def test_a_terminal_that_lacks_the_characters_gets_them_written_out(tmp_path, monkeypatch):
    csv, images = small_source(tmp_path / "source", classes=2, per_class=3)
    names = "landmark_id,category\n100,Category:%1B%5B2J\u6f22%0A_%E2%80%AE\n101,Category:\u00e9\n"
    (tmp_path / "source/train_label_to_category.csv").write_text(names, encoding="utf-8")
    for encoding, shown in (("ascii", "\\u6f22"), ("utf-8", "\u6f22")):
        stdout = io.TextIOWrapper(io.BytesIO(), encoding)
        monkeypatch.setattr(sys, "stdout", stdout)
        assert cli.main(["prepare", *command(csv, images, tmp_path / "data", "--dry-run")]) == 0
        text = stdout.buffer.getvalue().decode(encoding)
        assert shown in text and "[2J" in text
        assert text.replace("\n", "").isprintable() and "\nlargest: " in text
