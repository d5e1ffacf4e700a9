"""The folder of a comparison with made-up accuracies, for tests of rules, tables and figures."""

import csv
import json
import random

import yaml


def write_csv(path, columns, rows):
    with open(path, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def make_comparison(folder, top1, n=200, seeds=(0,), epochs=4):
    """Writes a comparison in which ``top1[model]`` of the n test images are right; curves rise to it.

    Args:
        folder: Folder to write.
        top1: Model -> fraction right, or a list with one fraction per seed. Images are right from the first on, so that
            a better model is right wherever a worse one is.
        n: Test images.
        seeds: Seeds of every model.
        epochs: Epochs of every run.
    """
    folder.mkdir(parents=True)
    (folder / "dataset.json").write_text(json.dumps({"seed": 0}))
    write_csv(folder / "classes.csv", ["class", "name"], [[f"{i:04d}", f"place {i}"] for i in range(10)])
    images = [(f"{i:05d}", f"{i % 10:04d}", "test") for i in range(n)]
    images += [(f"t{i:04d}", f"{i % 10:04d}", "train") for i in range(30)]
    images += [(f"v{i:04d}", f"{i % 10:04d}", "validation") for i in range(20)]
    write_csv(folder / "images.csv", ["image_id", "class", "split"], images)
    for model, fractions in top1.items():
        for index, seed in enumerate(seeds):
            fraction = fractions[index] if isinstance(fractions, list) else fractions
            make_run(folder / f"{model}-s{seed}", model, seed, fraction, n, epochs)
    return folder


def share(correct, n):
    return {"value": correct / n, "correct": correct, "images": n}


def make_run(folder, model, seed, fraction, n, epochs):
    folder.mkdir()
    right = round(fraction * n)
    ranks = [1 if i < right else (0, 2, 5)[i % 3] for i in range(n)]
    write_csv(folder / "predictions-test.csv", ["image_id", "rank"], [(f"{i:05d}", r) for i, r in enumerate(ranks)])
    noise = random.Random(f"{model} {seed}")
    rows = []
    for epoch in range(epochs):
        rise = (epoch + 1) / epochs
        eval_top1 = 100 * fraction * rise + noise.random()
        rows.append([epoch, 2.5 - 2 * fraction * rise, 2.0, eval_top1, 90.0, 0.0005])
    columns = ["epoch", "train_loss", "eval_loss", "eval_top1", "eval_top5", "lr"]
    write_csv(folder / "summary.csv", columns, rows)
    (folder / "args.yaml").write_text(
        yaml.safe_dump({"model": model, "img_size": 96, "data_dir": "DATA", "device": "cpu"})
    )
    info = {
        "model": model,
        "seed": seed,
        "epochs": epochs,
        "finished": True,
        "rate_rule": "paper",
        "trainer": {"kind": "stand-in", "timm": "1.0"},
        "machine": {"cpu": "A CPU"},
        "wall_seconds": 60.0,
        "evaluation": {
            "test": {"top1": share(right, n), "top5": share(sum(0 < rank <= 5 for rank in ranks), n)},
        },
    }
    (folder / "run.json").write_text(json.dumps(info))


def add_scale(run, epochs=4, changed=0.25):
    """Writes a run's scale.json: two units whose Scale spreads more with every epoch."""

    def units(epoch):
        spread = {"over_channels": 0.01 * (epoch + 1), "over_photos": 0.02 * (epoch + 1), "logits": 0.5}
        return [{"unit": f"layer{stage}.0.attn", "channels": 8, "mean": 0.5, **spread} for stage in (1, 4)]

    scale = {"model": run.name.split("-")[0], "run": run.name, "data_digest": "0" * 64, "split": "validation"}
    scale |= {"photos": 20, "params": 1_500_000, "macs": 2_500_000_000, "macs_spent": 10**9, "changed": changed}
    scale |= {"untrained": units(0), "trained": units(epochs)}
    scale["epochs"] = {str(epoch): units(epoch) for epoch in range(1, epochs + 1)}
    (run / "scale.json").write_text(json.dumps(scale))
