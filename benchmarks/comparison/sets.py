"""Reads the folder of a comparison; imports no torch.

COMPARISON/dataset.json classes.csv images.csv      the data set: description, classes, class and split of each image
COMPARISON/<model>-s<seed>/run.json args.yaml summary.csv predictions-test.csv
COMPARISON/<model>-s<seed>/scale.json               statistics of its attention units, if scale.py was run
"""

import csv
import importlib.util
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
RESULTS = REPOSITORY / "benchmarks" / "results"


def without_torch(room: str, name: str) -> ModuleType:
    """Imports a module of the package by its path, because the package's ``__init__`` imports torch."""
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / "timm_landmark" / room / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


if TYPE_CHECKING:
    from timm_landmark.accounting import claims
    from timm_landmark.data.address import Place
    from timm_landmark.inference.metrics import accuracy as metrics
else:
    claims, metrics = without_torch("accounting", "claims"), without_torch("inference/metrics", "accuracy")


@dataclass(frozen=True)
class FinishedRun:
    """One finished run.

    Attributes:
        model: Its timm name.
        seed: Its seed.
        info: ``run.json``.
        args: ``args.yaml``.
        epochs: Rows of ``summary.csv`` as numbers.
        ranks: Test image id -> rank of the true class among the first five predictions; 0 if it is not among them.
        scale: ``scale.json``, or None.
    """

    model: str
    seed: int
    info: dict[str, Any]
    args: dict[str, Any]
    epochs: list[dict[str, float]]
    ranks: dict[str, int]
    scale: dict[str, Any] | None

    def hits(self, k: int, images: Sequence[str]) -> list[bool]:
        """Whether the true class is among the first ``k`` predictions, for each image."""
        return [0 < self.ranks[image] <= k for image in images]

    @property
    def machine(self) -> str:
        """The device that trained it, if that is not the processor, and the processor of its machine."""
        cpu, device = self.info["machine"]["cpu"], self.args["device"]
        return cpu if device == "cpu" else f"{device} ({cpu})"

    @property
    def halvings(self) -> list[int]:
        """The epochs, from 1, that began with a lower learning rate than the epoch before."""
        rates = self.curve("lr")
        return [epoch for epoch, (before, rate) in enumerate(pairwise(rates), start=2) if rate < before]

    def curve(self, column: str) -> list[float]:
        """One column of ``summary.csv``."""
        return [row[column] for row in self.epochs]


@dataclass(frozen=True)
class Comparison:
    """Models trained alike on one data set; ``runs`` by model, in the paper's order, and seed."""

    path: Path
    classes: list[dict[str, str]]
    images: list[dict[str, str]]
    runs: dict[str, list[FinishedRun]]

    @property
    def networks(self) -> dict[str, list[FinishedRun]]:
        """The runs of the networks, without variants of the attention unit."""
        return {model: runs for model, runs in self.runs.items() if not is_variant(model)}

    @property
    def shown(self) -> dict[str, list[FinishedRun]]:
        """The runs of the networks that tables average: of the seeds that all networks have, if there are any."""
        common = self.seeds(*self.networks) if self.networks else []
        return {model: [run for run in runs if run.seed in common] or runs for model, runs in self.networks.items()}

    @property
    def test_images(self) -> list[str]:
        """Ids of the test images."""
        return [row["image_id"] for row in self.images if row["split"] == "test"]

    @property
    def largest_class(self) -> float:
        """Share of test images in the largest class: the accuracy of always guessing it."""
        labels = [row["class"] for row in self.images if row["split"] == "test"]
        return max(labels.count(label) for label in set(labels)) / len(labels)

    def seeds(self, *models: str) -> list[int]:
        """Seeds that all of these models were trained with."""
        return sorted(set.intersection(*({run.seed for run in self.runs.get(model, [])} for model in models)))

    def pairs(self, model: str, other: str) -> list[tuple[FinishedRun, FinishedRun]]:
        """Runs of the two models with the same seed."""
        of = {(run.model, run.seed): run for runs in self.runs.values() for run in runs}
        return [(of[model, seed], of[other, seed]) for seed in self.seeds(model, other)]


def is_variant(model: str) -> bool:
    """Whether the model is a variant of the attention unit, defined in ``ablations.py``."""
    return model.startswith("resneat50_")


def load(path: Path) -> Comparison:
    """Reads a comparison.

    Raises:
        FileNotFoundError: If a file of the format is missing.
        ValueError: If a run's predictions are not those of the data set's test images.
    """
    images = read_csv(path / "images.csv")
    test = {row["image_id"] for row in images if row["split"] == "test"}
    runs: dict[str, list[FinishedRun]] = {}
    for folder in sorted(path.glob("*-s*/")):
        run = _load_run(folder)
        if set(run.ranks) != test:
            raise ValueError(f"{folder / 'predictions-test.csv'} is not of the {len(test)} test images of images.csv")
        runs.setdefault(run.model, []).append(run)
    order = [*claims.SEVEN, *sorted(runs.keys() - set(claims.SEVEN))]
    return Comparison(
        path=path,
        classes=read_csv(path / "classes.csv"),
        images=images,
        runs={model: sorted(runs[model], key=lambda run: run.seed) for model in order if model in runs},
    )


def _load_run(folder: Path) -> FinishedRun:
    model, _, seed = folder.name.rpartition("-s")
    predictions = read_csv(folder / "predictions-test.csv")
    scale = folder / "scale.json"
    return FinishedRun(
        model=model,
        seed=int(seed),
        info=json.loads((folder / "run.json").read_text(encoding="utf-8")),
        args=yaml.safe_load((folder / "args.yaml").read_text(encoding="utf-8")),
        epochs=[{key: float(value) for key, value in row.items()} for row in read_csv(folder / "summary.csv")],
        ranks={row["image_id"]: int(row["rank"]) for row in predictions},
        scale=json.loads(scale.read_text(encoding="utf-8")) if scale.exists() else None,
    )


def read_csv(path: "Place") -> list[dict[str, str]]:
    """Rows of a CSV file, in a folder or at an address, as dictionaries."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# Name of a figure -> its models beside the baseline; at least one must have been trained.
FIGURES = {
    "figure-10": ("inception_resnet_pa", "inception_resnet_v2"),
    "figure-11": ("resneat50", "resnext50_32x4d"),
}
BASELINE = "resnet50"


def figure_models(comparison: Comparison, name: str) -> list[str]:
    """The trained models that a figure shows; empty if there is nothing to compare."""
    models = [model for model in (*FIGURES[name], BASELINE) if model in comparison.runs]
    return models if len(models) > 1 else []


def figure_title(models: Sequence[str]) -> str:
    """Names the networks of a figure as the paper does, such as "ResNeAt, ResNeXt and the baseline"."""
    names = ["the baseline" if model == BASELINE else claims.PAPER_TABLE_3[model][0] for model in models]
    return f"{', '.join(names[:-1])} and {names[-1]}"


def captions(comparison: Comparison) -> dict[str, str]:
    """The figures that ``figures.draw`` makes of a comparison: name -> caption."""
    shown = {name: models for name in FIGURES if (models := figure_models(comparison, name))}
    found = {name: f"Training loss and validation top-1: {figure_title(models)}" for name, models in shown.items()}
    return found | {"scale": "Standard deviation of Scale by unit during training"} if measured(comparison) else found


def measured(comparison: Comparison) -> list[FinishedRun]:
    """The first run of each model for which Scale was measured during training."""
    first = [runs[0] for runs in comparison.runs.values()]
    return [run for run in first if run.scale and run.scale["untrained"] and run.scale["epochs"]]
