"""Options that cannot work: ``train`` names them in one line before anything is written."""

import logging
import os
import sys

import pytest
import timm.scheduler
from train_cases import train, train_script
from train_data import make_data

from timm_landmark.utils.errors import UserError


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("options") / "data", classes=6, images=(6, 4, 2), size=40)


def check_refused(data, tmp_path, message, *options):
    """``train`` ends with an error of one line and creates no run folder."""
    with pytest.raises(UserError, match=message) as caught:
        train(data, tmp_path / "run", *options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--epochs", "0"], "--epochs 0: must be at least 1"),
        (["--seed", "-1"], "--seed -1: must be at least 0"),
        (["--seed", "x"], "argument --seed: invalid int value: 'x'"),
        (["--img-size", "0"], "--img-size 0: must be at least 1"),
        (["--lr", "nan"], "--lr nan: must be a positive number"),
        (["--lr", "0"], "--lr 0.0: must be a positive number"),
        (["-b", "37"], "-b 37: .* has only 36 training images"),
        (["--workers", "-1"], "--workers -1: must be at least 0"),
        (["--device", "cuda:99"], "--device cuda:99: not available .*--device cpu"),
        (["--device", "gpu"], "--device gpu: not available"),
        (["--num-classes", "5"], "--num-classes 5: .* has 6 classes"),
        (["--sed", "1"], "unknown option --sed: .*did you mean --seed"),
        (["--epoch", "1"], "unknown option --epoch: .*did you mean --epochs"),
        (["stray"], "stray"),
        (["--model", "resnet50"], "--model resnet50: not supported here; give the model as the first argument"),
        (["--experiment", "x"], "--experiment x: not supported here; give the run folder with --output"),
        (["--class-map", "x"], "--class-map x: not supported here"),
        (["--eval-metric", "loss"], "--eval-metric loss.*follows validation top1"),
        (["--train-split", "trian"], "no images in its split 'trian'"),
        (["--train-script", "absent.py"], r"--train-script absent\.py: no such file"),
        (["-c", "absent.yaml"], r"-c absent\.yaml cannot be read"),
        (["--data", "absent"], "--data absent: no such folder"),
        (["--resume"], r"is not a run \(run\.json is missing\)"),
        (["--output", __file__], "--output .* exists"),
        (["--output", f"{__file__}/run"], "--output .* cannot be created"),
        (["--model-kwargs", "no_such=1"], "--model-kwargs no_such=1: a trial step of test_resnet fails .*no_such"),
        (["--model-kwargs", "no_such"], "--model-kwargs and --opt-kwargs: .* have the form KEY=VALUE"),
        (["--sha256", "0"], "--sha256 0: only valid with --fetch-script"),
        (["-vb", "0"], "--validation-batch-size 0: must be at least 1"),
        (["--device", "meta"], "--device meta: not available .*--device cpu"),
    ],
)
def test_a_mistake_ends_in_one_clear_line(data, tmp_path, options, message):
    check_refused(data, tmp_path, message, *options)


@pytest.mark.parametrize(
    ("model", "remedy"), [("resneat", "similar names: resneat50"), ("nope", r"timm\.list_models\(\) lists all models")]
)
def test_a_model_that_timm_does_not_know(data, tmp_path, model, remedy):
    with pytest.raises(UserError, match=f"MODEL {model}: timm has no model with this name; {remedy}"):
        train(data, tmp_path / "run", model=model)


# errors that the trainers find themselves, and the option that the message must name
LATE = [
    (["--opt", "nosuch"], "--opt nosuch"),
    (["--sched", "nosuch"], "--sched nosuch"),
    (["--checkpoint-hist", "0"], "--checkpoint-hist 0"),
    (["--seed", "12345678901234567890"], "--seed 12345678901234567890"),
    (["--interpolation", "nosuch"], "--interpolation nosuch"),
    (["--scale", "1"], r"--scale 1\.0"),
    (["--in-chans", "4"], "--in-chans 4"),
    (["--aa", "bad"], "--aa bad"),
    (["--color-jitter", "-1"], r"--color-jitter -1\.0"),
    (["--sched", "cosine", "--eval-metric", "foo"], "--eval-metric foo"),
    *(
        pytest.param(*case, marks=pytest.mark.full)
        for case in [
            (["--train-interpolation", "nosuch"], "--train-interpolation nosuch"),
            (["--ratio", "1"], r"--ratio 1\.0"),
            (["--mean", "1", "2"], r"--mean 1\.0 2\.0"),
            (["--std", "0", "0", "0"], r"--std 0\.0 0\.0 0\.0: .*loss is nan"),
            (["--crop-pct", "-1"], r"--crop-pct -1\.0"),
            (["--opt-betas", "0.9"], r"--opt-betas 0\.9"),
            (["--smoothing", "2"], r"--smoothing 2\.0"),
            (["--drop", "2"], r"--drop 2\.0"),
            (["--gp", "nosuch"], "--gp nosuch"),
            (["--opt-kwargs", "foo=1"], "--opt-kwargs foo=1"),
            (["--log-interval", "0"], "--log-interval 0"),
            (["--amp", "--amp-dtype", "foo"], "--amp, --amp-dtype foo"),
            (["--clip-grad", "1", "--clip-mode", "foo"], r"--clip-grad 1\.0, --clip-mode foo"),
            (["--mixup", "0.2", "-b", "3"], r"--batch-size 3, --mixup 0\.2"),
            (["--aug-splits", "1"], "--aug-splits 1"),
            (["--cutmix-minmax", "0.2"], r"--cutmix-minmax 0\.2"),
            (["--worker-seeding", "foo", "--workers", "2"], "--worker-seeding foo: .*assert worker_seeding in"),
            (["--initial-checkpoint", "absent.pth"], r"--initial-checkpoint absent\.pth"),
            (["--device-modules", "absent"], "--device-modules absent"),
            (["--torchcompile", "nosuch"], "--torchcompile nosuch"),
            (["--sched", "step", "--decay-epochs", "0"], r"--sched step, --decay-epochs 0\.0"),
        ]
    ),
]


@pytest.mark.script
@pytest.mark.parametrize(("options", "message"), LATE)
def test_what_timms_script_fails_with_is_named_before_anything_is_written(data, tmp_path, options, message, capfd):
    check_trial_fails(data, tmp_path, message, *options, "--train-script", train_script())
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--opt", "nosuch"], "--opt nosuch"), (["--std", "0", "0", "0"], r"--std 0\.0 0\.0 0\.0: .*loss is nan")]
    + [
        pytest.param([option, value], f"{option} {value}", marks=pytest.mark.full)
        for option, value in [
            ("--checkpoint-hist", "0"),
            ("--seed", "12345678901234567890"),
            ("--interpolation", "nosuch"),
            ("--train-interpolation", "nosuch"),
            ("--scale", "1"),
            ("--color-jitter", "-1"),
            ("--drop", "2"),
            ("--opt-betas", "0.9"),
        ]
    ],
)
def test_what_the_stand_in_fails_with_is_named_before_anything_is_written(
    data, tmp_path, monkeypatch, options, message
):
    monkeypatch.delenv("TIMM_TRAIN_SCRIPT", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    check_trial_fails(data, tmp_path, message, *options)


def check_trial_fails(data, tmp_path, message, *options):
    """The rehearsal fails, names the option, and restores everything that it changes."""
    state = sys.argv, os.environ.get("WORLD_SIZE"), logging.root.handlers[:], timm.scheduler.create_scheduler_v2
    check_refused(data, tmp_path, f"{message}.*give another value", "--epochs", 2, *options)
    now = sys.argv, os.environ.get("WORLD_SIZE"), logging.root.handlers[:], timm.scheduler.create_scheduler_v2
    assert now == state


@pytest.mark.script
def test_a_resumed_run_is_tried_before_it_is_touched(data, tmp_path):
    run, script = tmp_path / "run", ["--train-script", train_script()]
    assert train(data, run, "--epochs", 2, "--checkpoint-hist", 2, *script) == 0
    before = {file.name: file.read_bytes() for file in run.iterdir()}
    with pytest.raises(UserError, match="--checkpoint-hist 0: a trial step of test_resnet fails"):
        train(data, run, "--epochs", 3, "--resume", "--checkpoint-hist", 0, *script)
    with pytest.raises(UserError, match="--sched"):
        train(data, run, "--epochs", 3, "--resume", "--sched", "cosine", "--eval-metric", "loss", *script)
    assert {file.name: file.read_bytes() for file in run.iterdir()} == before


@pytest.mark.parametrize(
    "text", ["lr: [1]", "epochs: 2.5", "smoothing: true", "scale: 1.0", "scale: [a, b]", "model_kwargs: 3", "opt: 3"]
)
def test_a_recipe_with_a_value_of_another_kind(data, tmp_path, text):
    recipe = tmp_path / "own.yaml"
    recipe.write_text(text)
    check_refused(data, tmp_path, f"-c .*own.yaml: {text.partition(':')[0]}: .* has the wrong type", "-c", recipe)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"a: [1", b"words", b"nosuch: 1"])
def test_what_is_no_recipe(data, tmp_path, content):
    (tmp_path / "own.yaml").write_bytes(content)
    check_refused(data, tmp_path, r"-c .*own\.yaml", "-c", tmp_path / "own.yaml")


@pytest.mark.script
def test_a_recipe_with_a_value_that_the_trainer_fails_with(data, tmp_path):
    recipe = tmp_path / "own.yaml"
    recipe.write_text("opt: nosuch\nsched: cosine\nlr: 1e-3\n")
    check_trial_fails(data, tmp_path, "--opt nosuch", "-c", recipe, "--train-script", train_script())


@pytest.mark.script
@pytest.mark.parametrize(
    "options",
    [
        ["--warmup-epochs", 2],
        ["--warmup-lr", 1e-6],
        ["--min-lr", 0.1],
        ["--decay-rate", 0.1],
        ["--patience-epochs", 3],
        ["--cooldown-epochs", 3],
        ["--lr-base", 0.2],
        ["--lr-noise", 0.4, 0.9],
        ["--sched-on-updates"],
    ],
)
def test_what_the_papers_rule_does_not_honour_is_refused(data, tmp_path, options):
    script = ["--train-script", train_script()]
    check_refused(data, tmp_path, rf"{options[0]} .*the paper's learning rate rule .*give --sched", *options, *script)


@pytest.mark.script
def test_what_the_recipe_says_anyway_may_be_said_again(data, tmp_path):
    options = ["--epochs", 1, "--warmup-epochs", 0, "--decay-rate", 0.5, "--patience-epochs", 0]
    assert train(data, tmp_path / "run", *options, "--train-script", train_script()) == 0


@pytest.mark.script
@pytest.mark.parametrize(
    "options", [["--mixup", 0.2], ["--model-ema"], ["--workers", 2], ["--amp", "--amp-dtype", "bfloat16"]]
)
def test_what_works_is_let_through(data, tmp_path, options):
    assert train(data, tmp_path / "run", "--epochs", 1, *options, "--train-script", train_script()) == 0


@pytest.mark.parametrize("model", ["inception_resnet_v2", pytest.param("inception_resnet_pa", marks=pytest.mark.full)])
def test_an_image_too_small_for_inception(data, tmp_path, model):
    with pytest.raises(UserError, match=rf"--img-size 64: a trial step of {model} fails .*Kernel size"):
        train(data, tmp_path / "run", "--img-size", 64, model=model)
