"""A finished, evaluated run without training, and its export."""

import argparse
import json
from pathlib import Path

import timm
import torch
import yaml

from timm_landmark.data.layout import ClassRow, data_digest, write_rows
from timm_landmark.hub.export import main
from timm_landmark.utils.machine import machine_info

TINY = {"layers": [1, 1, 1, 1]}  # resneat50 with one block per stage, a third of the size


def make_run(
    path: Path,
    data: Path | None = None,
    model: str = "resneat50",
    names: tuple[str, ...] = ("Class 0", "Class 1", "Class 2"),
    size: int = 64,
    ema: bool = False,
    evaluated: bool = True,
    **model_kwargs: object,
) -> Path:
    """Writes the files of a run of two epochs, of which the second is the best, with random weights."""
    path.mkdir(parents=True)
    torch.manual_seed(7)
    net = timm.create_model(model, num_classes=len(names), **model_kwargs)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            module.running_mean.normal_(std=0.1)
    args = dict(
        model=model, num_classes=len(names), input_size=None, img_size=size, in_chans=None, gp=None,
        model_kwargs=model_kwargs, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225], interpolation="bilinear",
        crop_pct=0.875, eval_metric="top1", data_dir=str(data) if data else "gone", opt="adam", lr=5e-4, model_ema=ema,
        seed=1, epochs=2,
    )  # fmt: skip
    (path / "args.yaml").write_text(yaml.safe_dump(args))
    lines = (
        "epoch,train_loss,eval_loss,eval_top1,eval_top5,lr",
        "0,1.2,1.1,50.0,100.0,0.0005",
        "1,1.0,0.9,75.0,100.0,0.0005",
    )
    (path / "summary.csv").write_text("".join(f"{line}\n" for line in lines))
    state = {
        "epoch": 1,
        "arch": model,
        "state_dict": net.state_dict(),
        "args": argparse.Namespace(**args),
        "metric": 75.0,
    }
    if ema:
        state["state_dict_ema"] = {
            name: value * 0.5 if value.is_floating_point() else value for name, value in net.state_dict().items()
        }
    torch.save(state, path / "model_best.pth.tar")
    write_rows(path, ClassRow, [ClassRow(f"{i:04d}", str(i), name, 12, 6, 6) for i, name in enumerate(names)])
    info = {
        "model": model, "recipe": "paper.yaml", "seed": 1, "img_size": size, "epochs": 2, "rate_rule": "paper",
        "data_digest": data_digest(data) if data else "0" * 64,
        "classes": [f"{i:04d}" for i in range(len(names))],
        "global_batch": 64, "trainer": {"kind": "timm train.py", "timm": timm.__version__}, "machine": machine_info(),
        "epochs_finished": 2, "wall_seconds": 12.5, "finished": True,
    }  # fmt: skip
    if evaluated:
        share = {"value": 2 / 3, "correct": 12, "images": 18, "interval": [0.4375, 0.8372]}
        info["evaluation"] = {
            "test": {
                "split": "test", "checkpoint": "model_best.pth.tar", "epoch": 1, "data_digest": info["data_digest"],
                "images": 18, "top_k": min(5, len(names)), "top1": share,
                "top5": {**share, "value": 1.0, "correct": 18},
                "gap": {"value": 0.51234, "interval": [0.41, 0.62]},
                "per_class": [
                    {"class": f"{i:04d}", "name": name, "value": 0.5, "correct": 3, "images": 6, "interval": [0.1, 0.9]}
                    for i, name in enumerate(names)
                ],
            }
        }  # fmt: skip
    (path / "run.json").write_text(json.dumps(info))
    return path


def export(run: Path, output: Path, *options: str) -> Path:
    """Exports a run; returns the exported folder."""
    assert main([str(run), "--output", str(output), *options]) == 0
    return output


def make_export(path: Path, *options: str, **run_options: object) -> Path:
    """Makes a run in ``path`` (see :func:`make_run`), exports it, and returns the exported folder."""
    run = make_run(path / "run", **run_options)
    return export(run, path / "f", *options)
