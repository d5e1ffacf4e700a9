"""README, docs/ and the other pages: links and named files exist, options exist, and marked blocks run.

A fenced block below ``<!-- run -->`` is run, one below ``<!-- run: full -->`` only by ``make test-all``. The blocks of
a page run in order, in one new folder. Lines that begin with ``$`` are commands; what follows is their output, in which
``...`` stands for anything.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += sorted((ROOT / "hub_cards").glob("*.md"))
NAMED = re.compile(r"`((?:timm_landmark|benchmarks|docs|examples|hub_cards|tests)/[\w./-]+\.\w+)`")
LINK = re.compile(r"\]\((?!https?:)([^)\s#]*)(?:#([^)\s]+))?\)")
BLOCK = re.compile(r"<!-- run(: full)? -->\n```(bash|console|python)\n(.*?)^```", re.DOTALL | re.MULTILINE)
LONGEST_README = 150  # lines


def page_id(page):
    return page.relative_to(ROOT).as_posix()


def text_of(page):
    return page.read_text(encoding="utf-8")


def without_code(text):
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(page):
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", without_code(text_of(page)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_and_named_files_exist(page):
    text = without_code(text_of(page))
    for place, anchor in LINK.findall(text):
        target = page.parent / place if place else page
        assert target.exists(), f"{page.name}: {place}"
        assert not anchor or anchor in anchors(target), f"{page.name}: {place}#{anchor}"
    for name in NAMED.findall(text):
        assert "NAME" in name or (ROOT / name).exists(), f"{page.name}: {name}"


def test_readme_is_short_and_links_to_every_page():
    text = text_of(ROOT / "README.md")
    assert len(text.splitlines()) < LONGEST_README
    for page in (ROOT / "docs").glob("*.md"):
        assert f"(docs/{page.name})" in text, page.name


def commands(page):
    """The commands of a page that call timm-landmark, as words."""
    blocks = re.findall(r"^```(?:bash|console)\n(.*?)^```", text_of(page), re.DOTALL | re.MULTILINE)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    found = [re.search(r"timm[-_]landmark(?:\.cli)? ([a-z]+ .*|--\w+)", line) for line in lines]
    return [shlex.split(match[1], comments=True) for match in found if match and "=" not in match[0].split()[0]]


def options(verb, capsys):
    """The options in a verb's help; for train, also those of timm's options that the stand-in supports."""
    from timm_landmark.cli import VERBS, main

    assert verb in VERBS
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    known = set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", capsys.readouterr().out))
    if verb == "train":
        from timm_landmark.training.stand_in import StandIn

        known |= set(StandIn().parser._option_string_actions)
    return known


def test_options_in_commands_are_known(capsys):
    from timm_landmark.cli import VERBS

    seen = {}
    for page in PAGES:
        for verb, *words in commands(page):
            given = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)} - {"-"}
            seen.setdefault(verb, {}).update(dict.fromkeys(given, page.name))
    assert seen.keys() == VERBS.keys(), "every verb is shown"
    for verb, given in seen.items():
        unknown = given.keys() - options(verb, capsys)
        wrong_on_purpose = {"--epoch"}
        assert unknown <= wrong_on_purpose, f"{verb} {unknown}, {given}"


def steps(block):
    """Commands of a console block with the output that is shown; a bash block shows none."""
    kind, body = block
    if kind != "console":
        return [(body, None)]
    parts = re.split(r"^\$ ", body, flags=re.MULTILINE)
    return [(command, shown) for command, _, shown in (part.partition("\n") for part in parts[1:])]


def run_step(kind, command, folder):
    """Exit code and output, stdout before stderr."""
    program = [sys.executable, "-c", command] if kind == "python" else ["bash", "-euc", command]
    bin_folder = str(Path(sys.executable).parent)
    environment = {**os.environ, "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(program, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    return done.returncode, done.stdout + done.stderr


def matches(shown, output):
    """Whether the output contains the shown lines, ``...`` standing for anything."""
    pattern = ".*".join(map(re.escape, shown.strip("\n").split("...")))
    return re.search(pattern, output, re.DOTALL)


def test_the_dots_stand_for_anything():
    assert matches("a\n...\nd 1...\n", "a\nb\nc\nd 12\n")
    assert not matches("a\n...\nd 2\n", "a\nb\nc\nd 12\n")


def marked(page):
    return [(bool(full), (kind, body)) for full, kind, body in BLOCK.findall(text_of(page))]


RUNNABLE = [
    pytest.param(page, marks=[pytest.mark.full] * any(full for full, _ in marked(page)), id=page_id(page))
    for page in PAGES
    if marked(page)
]


@pytest.mark.parametrize("page", RUNNABLE)
def test_marked_blocks_run(page, tmp_path):
    for _, block in marked(page):
        for command, shown in steps(block):
            code, output = run_step(block[0], command, tmp_path)
            assert (code != 0) == ("error:" in (shown or "")), f"{command}\n{code}\n{output[-3000:]}"
            assert shown is None or matches(shown, output), f"{command}\nshown:\n{shown}\nis:\n{output[-3000:]}"


def test_blocks_are_marked_in_pairs():
    for page in PAGES:
        text = text_of(page)
        assert len(re.findall("^<!-- table: ", text, re.M)) == len(re.findall("^<!-- /table -->", text, re.M)), (
            page.name
        )
        assert text.count("<!-- run") == len(marked(page)), f"{page.name}: a mark without a block of a kind that runs"
