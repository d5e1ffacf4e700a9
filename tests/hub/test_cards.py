"""hub_cards/ and docs/full_scale.md: a card per set of weights, figures from files, snippets and commands that run."""

import json
import re
import shlex
from pathlib import Path

import pytest
import timm

import timm_landmark  # noqa: F401
from benchmarks import report

ROOT = Path(__file__).resolve().parents[2]
CARDS = sorted((ROOT / "hub_cards").glob("*.md"))
COUNTS = json.loads((ROOT / "timm_landmark" / "accounting" / "stated_counts.json").read_text())
OURS = ("resneat50", "resneat101", "inception_resnet_pa")


def full_scale_rows():
    """The table of hours, computed from the committed counts."""
    seven = [model for model in COUNTS["models"] if model != "resneat101"]
    hours = {}
    for model in (*seven, "resneat101"):
        macs = COUNTS["models"][model]["macs"]
        hours[model] = 25 * (60_000 * 3 + 10_000) * macs / 10e12 / 3600
    lines = [f"| `{model}` | {COUNTS['models'][model]['macs'] / 1e9:.2f} | {hours[model]:.1f} |" for model in hours]
    total = 3 * sum(hours[model] for model in seven)
    return lines, f"Seven models and three seeds: about {total:.0f} hours."


def test_one_card_for_each_weight_set_that_the_registry_names():
    names = {f"{model}.{cfg.tag}" for model in OURS if (cfg := timm.get_pretrained_cfg(model))}
    tagged = set(timm.list_pretrained("*gld*"))
    assert {card.name.removesuffix(".md") for card in CARDS} == names == tagged


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.stem)
def test_first_line_says_that_the_weights_are_not_published(card):
    first = card.read_text(encoding="utf-8").splitlines()[0]
    assert "not published" in first and f"timm-landmark/{card.name.removesuffix('.md')}" in first


def test_cards_equal_a_fresh_render_of_the_committed_results():
    rendered = report.rendered()
    for card in CARDS:
        text = card.read_text(encoding="utf-8")
        assert text == rendered[card]
        model = card.name.split(".")[0]
        assert f"{COUNTS['models'][model]['params'] / 1e6:.1f}" in text


@pytest.mark.parametrize(
    "card",
    [pytest.param(card, marks=[pytest.mark.full] * ("resneat50" not in card.stem), id=card.stem) for card in CARDS],
)
def test_snippets_run_but_for_the_weights(card, tmp_path, monkeypatch):
    """As in the card, but with pretrained=False, because there is nothing to download yet."""
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (256, 256), "teal").save("photo.jpg")
    snippets = re.findall(r"```python\n(.*?)```", card.read_text(encoding="utf-8"), re.DOTALL)
    assert len(snippets) == 4
    assert snippets.pop(1) == transformers_snippet(f"timm-landmark/{card.stem}")
    for snippet in snippets:
        assert snippet.startswith("import timm_landmark") and snippet.count("pretrained=True") == 1
        space = {}
        exec(snippet.replace("pretrained=True", "pretrained=False"), space)
        if "probabilities" in space:
            assert space["probabilities"].shape == (1000,)
        if "maps" in space:
            assert re.findall(r"# (\(1, .*\))", snippet) == [str(tuple(each.shape)) for each in space["maps"]]
        if "embedding" in space:
            assert f"# {tuple(space['embedding'].shape)}" in snippet


def transformers_snippet(repo):
    """The snippet in the cards of exported models, which test_model_card.py runs."""
    template = (ROOT / "timm_landmark" / "hub" / "model_card.md.jinja").read_text(encoding="utf-8")
    snippet = re.search(r"with transformers\n\n```python\n(.*?)```", template, re.DOTALL).group(1)
    return snippet.replace("{{ repo }}", repo).replace("{{ [5, num_classes]|min }}", "5")


def test_hours_are_those_of_the_stated_macs():
    text = (ROOT / "docs" / "full_scale.md").read_text(encoding="utf-8")
    lines, total = full_scale_rows()
    assert "\n".join(lines) in text and total in text
    assert "estimate" in text.lower()


def test_commands_of_full_scale_are_ones_that_the_verbs_take(capsys):
    """No option is misspelled."""
    text = (ROOT / "docs" / "full_scale.md").read_text(encoding="utf-8")
    commands = [line.partition("#")[0].strip() for line in text.splitlines() if line.startswith("timm-landmark ")]
    assert len(commands) > 8
    from timm_landmark.cli import VERBS, main

    for command in commands:
        verb, *words = shlex.split(command)[1:]
        assert verb in VERBS
        with pytest.raises(SystemExit):
            main([verb, "--help"])
        shown = capsys.readouterr().out
        for option in (word for word in words if word.startswith("--")):
            assert option in shown, f"{option} of {command}"
