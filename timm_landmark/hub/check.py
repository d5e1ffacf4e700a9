"""``timm-landmark check``: finds damage in a data set, an exported model, or a model on the Hub."""

import csv
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from timm_landmark.data.check import SUMS, check_dataset, check_files, read_sums
from timm_landmark.data.layout import FILES, ClassRow, read_rows
from timm_landmark.hub.config import id_and_name, read_config
from timm_landmark.hub.exported import PREFIX, fetch, read_tensors
from timm_landmark.runs.folder import INFO
from timm_landmark.runs.thresholds import KEY, read_thresholds
from timm_landmark.utils.errors import UserError
from timm_landmark.utils.hub_errors import split_revision
from timm_landmark.utils.hub_files import CARD, CONFIG, VECTORS, WEIGHTS
from timm_landmark.utils.parser import Parser
from timm_landmark.utils.text import printable, say

HUB_FILES = {".gitattributes"}  # added to every repository by the Hub

# The code that a user would write. Arguments: the model's name, the test vectors, the name of the weights file, the
# module path. The path is set before any import, because `python -c` searches the current folder first. The overlay
# keeps timm from loading a pickle.
_LOAD = """
import sys
sys.path[:] = sys.argv[4:]
import json
import timm, timm_landmark, torch
from safetensors.torch import load_file
overlay = dict(hf_hub_filename=sys.argv[3], custom_load=False)
model = timm.create_model(sys.argv[1], pretrained=True, pretrained_cfg_overlay=overlay).eval()
vectors = load_file(sys.argv[2])
with torch.inference_mode():
    logits = model(vectors["input"])
same = logits.shape == vectors["logits"].shape
difference = (logits - vectors["logits"]).abs().max().item() if same else None
print(json.dumps({"classes": model.num_classes, "shape": list(logits.shape), "difference": difference}))
"""


def main(argv: list[str]) -> int:
    """Runs the verb; returns 0 if no damage is found, else 1.

    Raises:
        UserError: If the target is neither a data set nor an exported model.
    """
    parser = Parser(
        prog="timm-landmark check",
        description=(
            "Finds damage. For a data set: compares the SHA-256 of every file with the recorded one, and the tables "
            "with each other. For an exported model: loads it with timm in a new process, compares its logits with the "
            "test vectors, and checks class count, model card and checksums. A Hub repository is downloaded first."
        ),
    )
    parser.add_argument("target", metavar="DATA|FOLDER|hf-hub:ORG/NAME", help="output of prepare, export or push")
    target = parser.parse_args(argv).target
    if target.startswith(PREFIX) or (Path(target) / CONFIG).is_file():
        problems = check_model(target)
    elif (Path(target) / "dataset.json").is_file():
        problems = check_dataset(Path(target))
    else:
        raise UserError(
            f"{target} is neither a prepared data set (dataset.json) nor an exported model ({CONFIG}); write a "
            "repository on the Hub as hf-hub:ORG/NAME"
        )
    for problem in problems:
        say(problem)
    say(f"{target}: {len(problems) or 'no'} problem{'s' * (len(problems) != 1)} found")
    return 1 if problems else 0


def check_model(source: str) -> list[str]:
    """Checks an exported model against its checksums, test vectors and metadata.

    Args:
        source: A folder, or ``hf-hub:ORG/NAME[@REVISION]``.

    Returns:
        The problems, one line each; empty if there are none.

    Raises:
        UserError: If the model does not exist or cannot be downloaded.
    """
    folder = fetch(source)
    problems: list[str] = []
    for part in (_sums, _config, _vectors, _card):
        try:
            problems += part(source, folder)
        except UserError as error:
            problems.append(str(error))
    return list(dict.fromkeys(problems))


def _sums(source: str, folder: Path) -> Iterator[str]:
    sums = read_sums(folder)
    for needed in (WEIGHTS, CONFIG, VECTORS, CARD, INFO):
        if needed not in sums:
            yield f"{needed}: not in {SUMS}"
    for problem in check_files(folder, sums):
        if problem.partition(": ")[0] not in HUB_FILES:
            yield problem
    if source.startswith(PREFIX):
        for name in sorted(_repository_files(source) - set(sums) - {SUMS} - HUB_FILES):
            yield f"{name}: unexpected, in the repository but not in {SUMS}"


def _repository_files(source: str) -> set[str]:
    """Lists the files of the repository, including those never downloaded; empty if the Hub is unavailable."""
    from huggingface_hub import HfApi

    name, revision = split_revision(source.removeprefix(PREFIX))
    try:
        return set(HfApi().list_repo_files(name, revision=revision))
    except Exception as error:  # offline: the cached files are still checked
        say(f"{name}: cannot list the files on the Hub ({type(error).__name__}); checking the cached files only")
        return set()


def _config(source: str, folder: Path) -> Iterator[str]:
    config = read_config(folder)
    if config.pretrained.get("hf_hub_filename") != WEIGHTS or config.pretrained.get("custom_load"):
        yield f"{CONFIG}: names {config.pretrained.get('hf_hub_filename')!r} as weights instead of {WEIGHTS}"
    try:
        stated = read_thresholds(json.loads((folder / INFO).read_text(encoding="utf-8")).get(KEY))
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        yield f"{INFO}: its {KEY} cannot be read ({printable(str(error), 120)})"
    else:
        if stated != config.thresholds:
            yield f"{CONFIG}: {KEY} {config.thresholds.as_dict()}, but {stated.as_dict()} in {INFO}"
    if not config.labels:
        yield f"{CONFIG}: label names are missing"
    try:
        rows = read_rows(folder, ClassRow)
    except (OSError, ValueError, csv.Error) as error:
        yield f"{FILES[ClassRow]}: cannot be read ({error})"
        return
    if len(rows) != config.num_classes:
        yield f"{CONFIG}: {config.num_classes} classes, but classes.csv has {len(rows)}"
    elif config.labels and list(map(id_and_name, rows)) != list(zip(config.landmark_ids, config.names, strict=True)):
        yield f"{CONFIG}: landmark_ids and label_descriptions differ from classes.csv"


def _vectors(source: str, folder: Path) -> Iterator[str]:
    vectors, facts = read_tensors(folder / VECTORS)
    config = read_config(folder)
    try:
        tolerance = float(facts["tolerance"])
    except (KeyError, ValueError):
        tolerance = math.nan
    if set(vectors) != {"input", "logits"} or not math.isfinite(tolerance):
        yield f"{VECTORS}: must contain an input, its logits and a tolerance"
        return
    name = source if source.startswith(PREFIX) else f"local-dir:{folder}"
    child = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _LOAD, name, str(folder / VECTORS), WEIGHTS, *_module_path(folder)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
    )
    if child.returncode or not child.stdout:
        last = (child.stderr.strip().splitlines() or ["no message"])[-1]
        yield f"{WEIGHTS}: cannot be loaded with timm in a new process ({printable(last, 300)})"
        return
    loaded = json.loads(child.stdout.splitlines()[-1])
    if loaded["classes"] != config.num_classes:
        yield f"{WEIGHTS}: {loaded['classes']} classes, but {CONFIG} has {config.num_classes}"
    if loaded["difference"] is None:
        yield f"{VECTORS}: logits of shape {tuple(vectors['logits'].shape)}, the model's have {tuple(loaded['shape'])}"
    elif not loaded["difference"] <= tolerance:
        yield f"{WEIGHTS}: logits differ from {VECTORS} by {loaded['difference']:.2e}, allowed {facts['tolerance']}"


def _module_path(folder: Path) -> list[str]:
    """The module search path without the model's folder, so that no Python file in it can run."""
    return [entry for entry in sys.path if os.path.isabs(entry) and Path(entry).resolve() != folder.resolve()]


def _card(source: str, folder: Path) -> Iterator[str]:
    from timm_landmark.hub.model_card import metrics, run_metrics

    try:
        stated = metrics((folder / CARD).read_text(encoding="utf-8"))
        measured = run_metrics(json.loads((folder / INFO).read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        yield f"{Path(str(error.filename)).name}: missing"
        return
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        yield f"{CARD} or {INFO} cannot be read ({type(error).__name__}: {printable(str(error), 120)})"
        return
    for split, name in sorted(stated.keys() | measured.keys()):
        if stated.get((split, name)) != measured.get((split, name)):
            yield (
                f"{CARD}: {name} on {split} is {stated.get((split, name))}, but {measured.get((split, name))} in {INFO}"
            )
