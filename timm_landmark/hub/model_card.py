"""The model card of an exported run: figures from its files, metadata by huggingface_hub, text from a template."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from timm_landmark.data.card import rights
from timm_landmark.data.layout import SPLITS, ClassRow
from timm_landmark.runs.folder import read_summary
from timm_landmark.runs.model import Run
from timm_landmark.runs.thresholds import KEY, run_thresholds
from timm_landmark.utils.errors import first_line
from timm_landmark.utils.text import markdown, printable

PAPER = (
    "Huang, Li, Cai: 预激活与自注意力机制在图像分类中的应用 (Pre-activation and self-attention in image "
    "classification), course report, Tsinghua University"
)
TIMM = "Wightman: PyTorch Image Models, https://github.com/huggingface/pytorch-image-models, doi 10.5281/zenodo.4414861"
_HOSTS = {
    "resneat": "Xie et al.: Aggregated Residual Transformations for Deep Neural Networks, https://arxiv.org/abs/1611.05431",
    "inception_resnet_pa": "Szegedy et al.: Inception-v4, Inception-ResNet, https://arxiv.org/abs/1602.07261",
}
SHOWN_CLASSES, FEW = 20, 1000  # rows of the table by class; test images below which the intervals are wide


@dataclass(frozen=True)
class Measured:
    """What export measures on the loaded model."""

    parameters: int
    macs: int
    activations: int
    num_features: int
    feature_shapes: tuple[tuple[int, ...], ...]
    attention: bool
    ema: bool
    dtype: str
    tolerance: float


def render_card(run: Run, name: str, classes: Sequence[ClassRow], measured: Measured, licence: str) -> str:
    """Renders the README.md of an exported run.

    Args:
        run: The run, from :func:`timm_landmark.runs.model.load_run`.
        name: ``architecture.tag``.
        classes: The run's classes in the order of the outputs.
        measured: What was measured on the model.
        licence: Licence of the weights, as an identifier of the Hub.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("timm_landmark.hub", "."), undefined=StrictUndefined, keep_trailing_newline=True
    )
    environment.globals.update(millions=lambda n: f"{n / 1e6:.2f}", billions=lambda n: f"{n / 1e9:.3f}")
    data = data_facts(run, classes)
    family = _family(run.model)
    results = [_result(run, evaluation) for evaluation in evaluations(run)]
    tested = next((result["images"] for result in results if result["split"] == "test"), None)
    text = environment.get_template("model_card.md.jinja").render(
        name=name,
        repo=placeholder(name),
        summary=f"A `{run.model}` trained on {data['title']} with {len(classes)} classes by `timm-landmark`.",
        architecture=run.model,
        registered_here=family is not None,
        papers=[PAPER, _HOSTS[family]] if family else [TIMM],
        input_size=run.input_size,
        resize=int(run.input_size[1] / run.crop_pct),
        interpolation=run.interpolation,
        num_classes=run.num_classes,
        results=results,
        validation=_validation(run),
        thresholds=_threshold_words(run),
        training=training_words(run),
        data=data,
        tested=tested,
        small=tested if tested is not None and tested < FEW else None,
        citations=[PAPER, TIMM, *data["citations"]],
        **vars(measured),
    )
    return f"---\n{_metadata(run, name, licence, data)}\n---\n{text}"


def placeholder(name: str) -> str:
    """The repository in the card's snippets until ``push`` inserts the real one."""
    return f"ORG/{name}"


def with_repository(card: str, name: str, repo: str) -> str:
    """Returns the card with ``repo`` in its snippets."""
    return card.replace(placeholder(name), repo)


def metrics(card: str) -> dict[tuple[str, str], float]:
    """Reads the results in the card's metadata: (split, metric name) -> value.

    Raises:
        ValueError: If the front matter is missing or huggingface_hub cannot read it.
    """
    from huggingface_hub import ModelCard
    from yaml import YAMLError

    if not card.startswith("---"):
        raise ValueError("it does not start with metadata between two lines ---")
    try:
        metadata: Any = ModelCard(card, ignore_metadata_errors=False).data  # its type depends on the card
    except YAMLError as error:
        raise ValueError(f"its metadata is not YAML: {first_line(error)}") from None
    return {(str(each.dataset_split), str(each.metric_name)): each.metric_value for each in metadata.eval_results or ()}


def run_metrics(info: dict[str, Any]) -> dict[tuple[str, str], float]:
    """Returns the results in ``run.json`` under the names used in the card's metadata."""
    return {
        (evaluation["split"], label): evaluation[key]["value"]
        for split, evaluation in (info.get("evaluation") or {}).items()
        if split in SPLITS
        for key, label in _labels(evaluation)
    }


def _labels(evaluation: dict[str, Any]) -> list[tuple[str, str]]:
    top5 = [("top5", f"top-{evaluation['top_k']}")]  # left out with k classes or fewer, where it is always 1
    return [("top1", "top-1"), *top5 * (evaluation["top_k"] < len(evaluation["per_class"])), ("gap", "GAP")]


def _metadata(run: Run, name: str, licence: str, data: dict[str, Any]) -> str:
    """Renders the front matter; evaluations become the Hub's model-index."""
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type="image-classification",
            dataset_type=data["slug"],
            dataset_name=data["name"],
            dataset_split=evaluation["split"],
            dataset_revision=evaluation["data_digest"],
            metric_type={"top1": "accuracy", "top5": "accuracy", "gap": "gap"}[key],
            metric_name=label,
            metric_value=evaluation[key]["value"],
        )
        for evaluation in evaluations(run)
        for key, label in _labels(evaluation)
    ]
    return ModelCardData(
        tags=["image-classification", "timm", "transformers", "timm-landmark", "landmark-recognition"],
        pipeline_tag="image-classification",
        library_name="timm",
        license=licence,
        datasets=[data["slug"]] if data["known"] else None,
        model_name=name if results else None,
        eval_results=results or None,
    ).to_yaml()


def evaluations(run: Run) -> list[dict[str, Any]]:
    """Returns the run's evaluations of its best epoch, which is exported; the test split comes first."""
    epoch, every = run.best_epoch, run.info.get("evaluation") or {}
    found = [every[split] for split in SPLITS if split in every and every[split]["epoch"] == epoch]
    found = [
        {**each, "per_class": [{**row, "name": printable(row["name"])} for row in each["per_class"]]} for each in found
    ]
    return sorted(found, key=lambda each: (each["split"] != "test", each["split"]))


def exported_info(run: Run) -> dict[str, Any]:
    """The content of run.json, with the results and thresholds of the exported epoch only."""
    found = {each["split"]: each for each in evaluations(run)}
    unknown = (run.info.get("evaluation") or {}).get("unknown") or {}
    if "test" in found and unknown.get("epoch") == found["test"]["epoch"]:
        found["unknown"] = unknown
    stale = run_thresholds(run)[1] is not None
    return {**{key: value for key, value in run.info.items() if not (stale and key == KEY)}, "evaluation": found}


def _result(run: Run, evaluation: dict[str, Any]) -> dict[str, Any]:
    rows = []
    for key, label in _labels(evaluation):
        low, high = evaluation[key]["interval"]
        scale, form = (100, "{:.2f} %") if key != "gap" else (1, "{:.4f}")
        value, low, high = (form.format(each * scale) for each in (evaluation[key]["value"], low, high))
        rows.append({"label": label, "value": value, "low": low, "high": high})
    ranked = sorted(evaluation["per_class"], key=lambda row: (-row["images"], row["class"]))
    shown = ranked[:SHOWN_CLASSES]
    return {
        "split": evaluation["split"],
        "images": evaluation["images"],
        "epoch": evaluation["epoch"],
        "digest": evaluation["data_digest"],
        "rows": rows,
        "per_class": [dict(row, name=markdown(row["name"])) for row in shown],
        "per_class_title": "By class:"
        if len(shown) == len(ranked)
        else f"By class, the {len(shown)} largest of {len(ranked)} (all are in `run.json`):",
    }


def _validation(run: Run) -> str | None:
    epoch = run.best_epoch
    value = next((row.get("eval_top1") for row in read_summary(run.path) if row["epoch"] == epoch), None)
    return None if value is None else f"{value:.2f}"


def _threshold_words(run: Run) -> str | None:
    """Describes the thresholds of ``predict``, and what they gave on test."""
    thresholds, _ = run_thresholds(run)
    if not thresholds.is_set:
        return None
    share, certain = f"{100 * thresholds.target_accuracy:g} %", thresholds.certain
    words = []
    if certain is not None:
        words.append(
            f"`timm-landmark predict` calls a guess certain from a probability of {certain:.4f} on, because {share} of "
            "such guesses were right on validation"
        )
        tested = next((each.get("selective") for each in evaluations(run) if each["split"] == "test"), None)
        if tested and tested["answered"] and tested["threshold"] == certain:
            low, high = (f"{100 * end:.1f}" for end in tested["interval"])
            doubted = f"{tested['images'] - tested['answered']} of {tested['images']}"
            words[-1] += (
                f"; on test, {tested['correct']} of {tested['answered']} were right ({100 * tested['value']:.1f} %, "
                f"95 % interval {low} .. {high} %), and {doubted} images were not certain"
            )
    if thresholds.none is not None:
        words.append(
            f"Below {thresholds.none:.4f} it says that a photo shows none of these classes, because {share} of such "
            "photos showed something else when this was measured"
        )
    return ". ".join(words) + "."


def training_words(run: Run) -> str:
    """Describes in a sentence how the run was trained."""
    info, args = run.info, run.args
    paper_rule = "halved when validation top-1 falls below that of the previous epoch"
    rule = paper_rule if info.get("rate_rule") == "paper" else "timm's schedule"
    trainer = info.get("trainer") or {}
    seconds = info.get("wall_seconds")
    machine = (info.get("machine") or {}).get("cpu")
    return (
        f"Recipe `{printable(str(info.get('recipe')), 60)}`, seed {info.get('seed')}, {info.get('epochs_finished')} "
        f"epochs at {info.get('img_size')} pixels, global batch {info.get('global_batch')}, {args.get('opt')} at a "
        f"learning rate of {args.get('lr')} ({rule}), by {printable(str(trainer.get('kind')), 40)} with timm "
        f"{printable(str(trainer.get('timm')), 20)}"
        + (f"; started from {started}" if (started := _start(info)) else "")
        + (f"; {seconds:.0f} s on {printable(str(machine), 60)}" if seconds and machine else "")
        + ". Details are in `run.json` and `summary.csv`."
    )


def _start(info: dict[str, Any]) -> str | None:
    start = info.get("init_from")
    if not start:
        return None
    share = f"{start['parameters_copied'] / 1e6:.2f} of {start['parameters'] / 1e6:.2f} M parameters"
    return f"{markdown(str(start['source']))} ({share}), the rest from random initialization"


def data_facts(run: Run, classes: Sequence[ClassRow]) -> dict[str, Any]:
    """Describes the training data, from its dataset.json if the data set is available."""
    from timm_landmark.data.layout import data_digest, read_dataset_info

    release, digest = "", run.info.get("data_digest")
    if run.data is not None and data_digest(run.data) == digest:
        release = printable(str(read_dataset_info(run.data).get("release") or ""), 80)
    known = rights(release)
    drawn = "The images were generated by code, without third-party rights." if release == "synthetic" else None
    title = "procedural landmarks" if drawn else release or "a prepared data set"
    words = markdown(title) if release else "a data set that was not available when this card was written"
    counts = ", ".join(f"{sum(getattr(row, split) for row in classes)} images in {split}" for split in SPLITS)
    return {
        "name": title,
        "title": markdown(title),
        "slug": "".join(char if char.isalnum() else "-" for char in title.lower()).strip("-"),
        "known": bool(release),
        "text": f"{words[:1].upper()}{words[1:]}, prepared by `timm-landmark` (digest of its manifest: `{digest}`).",
        "classes": len(classes),
        "counts": counts,
        "licence": drawn or known["licence_text"],
        "citations": known["citations"],
    }


def licence_note(run: Run, classes: Sequence[ClassRow], licence: str) -> str:
    """Renders the file LICENSE."""
    return (
        f"The weights in this folder: {licence}.\n"
        "The code of the architecture: timm-landmark and timm, both Apache-2.0 (https://www.apache.org/licenses/"
        "LICENSE-2.0).\n"
        "The training photos are not part of this folder and have their own licences. "
        f"{data_facts(run, classes)['licence']}\n"
    )


def _family(model: str) -> str | None:
    return next((family for family in _HOSTS if model.startswith(family)), None)
