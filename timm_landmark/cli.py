"""The command line: ``timm-landmark VERB ...``; a verb is a module with ``main(argv) -> int``, imported when used."""

import importlib
import io
import os
import sys

from timm_landmark import __version__, register_models
from timm_landmark.utils.errors import UserError
from timm_landmark.utils.text import say

VERBS = {
    "verify": (
        "timm_landmark.accounting.verify",
        "count parameters and MACs, and check the paper's claims against them",
    ),
    "prepare": (
        "timm_landmark.data.prepare.prepare",
        "make a training set from Google Landmarks or from your own photos",
    ),
    "synthesize": (
        "timm_landmark.data.synthetic.synthesize",
        "draw a data set of procedural landmarks, nothing to download",
    ),
    "train": ("timm_landmark.training.train", "train a model with the paper's recipe through timm's train script"),
    "evaluate": ("timm_landmark.inference.evaluate", "top-1, top-5 and GAP of a run on a named split"),
    "predict": ("timm_landmark.inference.predict", "name the landmark in photos"),
    "export": ("timm_landmark.hub.export", "turn a finished run into a folder for the Hugging Face Hub"),
    "check": ("timm_landmark.hub.check", "find what is damaged in a prepared data set or an exported model"),
    "push": ("timm_landmark.hub.push", "upload an exported folder to the Hugging Face Hub"),
}
FILE_VERBS = {"prepare", "synthesize"}  # these need no models, so no torch


def main(argv: list[str] | None = None) -> int:
    """Runs one verb.

    Args:
        argv: Arguments without the program's name; the process's own by default.

    Returns:
        The exit code: 0, a verb's own (such as 1 for a check that failed), 2 for a user's mistake, 130 after Ctrl-C.
    """
    argv = sys.argv[1:] if argv is None else argv
    if isinstance(sys.stdout, io.TextIOWrapper):  # what the terminal's encoding lacks is written out, as on stderr
        sys.stdout.reconfigure(errors="backslashreplace")
    if not argv or argv[0] in ("-h", "--help"):
        say(*_usage())
        return 0 if argv else 2
    if argv[0] == "--version":
        say(f"timm-landmark {__version__}")
        return 0
    if argv[0] not in VERBS:
        say(f"timm-landmark: error: no verb {argv[0]!r}; the verbs are {', '.join(VERBS)}", file=sys.stderr)
        return 2
    if argv[0] not in FILE_VERBS:
        register_models()
    try:
        code = importlib.import_module(VERBS[argv[0]][0]).main(argv[1:])
        sys.stdout.flush()
        return code
    except UserError as error:
        say(f"timm-landmark {argv[0]}: error: {' '.join(str(error).splitlines())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        say("", f"timm-landmark {argv[0]}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `timm-landmark ... | head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _usage() -> list[str]:
    width = max(map(len, VERBS))
    lines = [f"  {verb:<{width}}  {text}" for verb, (_, text) in VERBS.items()]
    return ["usage: timm-landmark VERB [options]   (timm-landmark VERB --help for its options)", "", *lines]


if __name__ == "__main__":
    sys.exit(main())
