"""``timm-landmark evaluate``: top-1, top-5 and GAP of a run's best checkpoint on a split, with intervals."""

import csv
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from timm_landmark.data.address import place
from timm_landmark.data.layout import SPLITS, ClassRow, data_digest
from timm_landmark.inference.metrics.accuracy import gap, gap_interval, wilson
from timm_landmark.inference.split_predictions import Prediction, predict_split
from timm_landmark.runs.checkpoints import checkpoint_epoch
from timm_landmark.runs.folder import update_info
from timm_landmark.runs.model import Run, load_run
from timm_landmark.training import checks
from timm_landmark.utils.device import check_device, default_device
from timm_landmark.utils.errors import UserError
from timm_landmark.utils.files import write_atomic
from timm_landmark.utils.parser import Parser
from timm_landmark.utils.text import escaped, printable, say


def main(argv: list[str]) -> int:
    """Runs the verb: prints the metrics, writes them to ``run.json``, and writes the predictions to a csv file.

    Raises:
        UserError: If the run, its checkpoint or the data set is missing, or they do not fit together.
    """
    parser = Parser(
        prog="timm-landmark evaluate",
        description=(
            "Computes top-1, top-5, GAP and top-1 per class, each with a 95 % interval, for the checkpoint that is "
            "best on validation. Writes them to RUN/run.json, and one line per image to RUN/predictions-SPLIT.csv."
        ),
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder (train --output)")
    parser.add_argument("--split", default="test", help="train, validation or test (default)")
    parser.add_argument("--data", type=place, help="prepared data set (default: that of the training)")
    parser.add_argument("--device", help="default: cuda if available, else mps, else cpu")
    parser.add_argument("-b", "--batch-size", type=int, default=64, help="images per batch (default: 64)")
    parser.add_argument("-j", "--workers", type=int, default=0, help="loader processes (default: 0)")
    parser.add_argument(
        "--keep-features",
        action="store_true",
        help="also write the logits and pooled features of each image, in float16, to RUN/features-SPLIT.npz",
    )
    options = parser.parse_args(argv)
    if options.split not in SPLITS:
        raise UserError(f"--split {options.split}: must be one of {', '.join(SPLITS)}")
    for name, least in (("batch_size", 1), ("workers", 0)):
        if getattr(options, name) < least:
            raise UserError(f"--{name.replace('_', '-')} {getattr(options, name)}: must be at least {least}")

    device = options.device or default_device()
    check_device(device)
    run = load_run(options.run)
    data = options.data or run.data
    if data is None:
        raise UserError(f"the data set of {run.path}, {run.args.get('data_dir')}, does not exist; pass it with --data")
    classes = checks.check_data(data)
    checks.check_classes(run.path, classes, f"--data {data}")
    checks.check_splits(data, [options.split])
    features = run.path / f"features-{options.split}.npz" if options.keep_features else None
    predictions = predict_split(run, data, options.split, device, options.batch_size, options.workers, features)
    result = summarise(predictions, classes)
    result = {
        "split": options.split,
        "checkpoint": run.checkpoint.name,
        "epoch": checkpoint_epoch(run.checkpoint),
        "data_digest": data_digest(data),
        **result,
    }
    write_atomic(run.path / f"predictions-{options.split}.csv", render_predictions(predictions))
    update_info(run.path, evaluation={**run.info.get("evaluation", {}), options.split: result})
    _print(run, result)
    return 0


def summarise(predictions: Sequence[Prediction], classes: Sequence[ClassRow]) -> dict[str, Any]:
    """Computes top-1, top-5, GAP and top-1 per class, as values in 0..1 with 95 % intervals.

    ``top_k`` is 5, or the number of classes if there are fewer.
    """
    hits = [prediction.correct for prediction in predictions]
    within = [prediction.folder in prediction.top for prediction in predictions]
    confidences = [prediction.confidence for prediction in predictions]
    images = Counter(prediction.folder for prediction in predictions)
    correct = Counter(prediction.folder for prediction in predictions if prediction.correct)
    low, high = gap_interval(confidences, hits)
    return {
        "images": len(predictions),
        "top_k": len(predictions[0].top),
        "top1": _share(sum(hits), len(hits)),
        "top5": _share(sum(within), len(within)),
        "gap": {
            "value": gap(confidences, hits, [prediction.image_id for prediction in predictions]),
            "interval": [low, high],
            "interval_by": "bootstrap of the images, 1000 samples",
        },
        "per_class": [
            {"class": row.folder, "name": row.name, **_share(correct[row.folder], images[row.folder])}
            for row in classes
        ],
    }


def _share(correct: int, images: int) -> dict[str, Any]:
    value = correct / images if images else None
    return {"value": value, "correct": correct, "images": images, "interval": list(wilson(correct, images))}


def render_predictions(predictions: Sequence[Prediction]) -> str:
    """Renders csv text: image_id, class, prediction, confidence, top5 (class folders separated by spaces)."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["image_id", "class", "prediction", "confidence", "top5"])
    for row in predictions:
        writer.writerow([escaped(row.image_id), row.folder, row.top[0], f"{row.confidence:.6f}", " ".join(row.top)])
    return buffer.getvalue()


def _print(run: Run, result: dict[str, Any]) -> None:
    say(f"{run.path}: {run.model}, epoch {result['epoch']}, {result['images']} images of {result['split']}")
    for name, label in (("top1", "top-1"), ("top5", f"top-{result['top_k']}"), ("gap", "GAP")):
        low, high = result[name]["interval"]
        note = " (always 1 for this number of classes)" if name == "top5" and result["top_k"] >= run.num_classes else ""
        say(f"  {label:<6} {result[name]['value']:.4f}   95 %: {low:.4f} .. {high:.4f}{note}")
    for row in sorted(result["per_class"], key=lambda row: -(row["value"] or 0.0))[:20]:
        low, high = row["interval"]
        if row["images"]:
            share = f"{row['correct']:>5} of {row['images']:<5}"
            say(f"  {row['class']} {printable(row['name'], 40):<40} {share} {low:.2f} .. {high:.2f}")
    if len(result["per_class"]) > 20:
        say(f"  ... the other {len(result['per_class']) - 20} classes are in {run.path / 'run.json'}")
