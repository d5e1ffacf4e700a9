"""The command line, ``timm-landmark VERB ...``. A verb is a module with ``main(argv) -> int``, imported when used."""

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
        "make a data set from Google Landmarks or from your own photos",
    ),
    "synthesize": (
        "timm_landmark.data.synthetic.synthesize",
        "generate a data set of procedural landmarks (no download)",
    ),
    "train": ("timm_landmark.training.train", "train a model with the paper's recipe and timm's train script"),
    "evaluate": ("timm_landmark.inference.evaluate", "compute top-1, GAP and the confidence to trust of a run"),
    "predict": ("timm_landmark.inference.predict", "recognize the landmark in photos"),
    "demo": ("timm_landmark.inference.demo", "try a model in the browser"),
    "embed": ("timm_landmark.inference.embed", "write a vector per photo, for search and clustering"),
    "export": ("timm_landmark.hub.export", "export a finished run to a folder for the Hugging Face Hub"),
    "check": ("timm_landmark.hub.check", "find damage in a data set or an exported model"),
    "push": ("timm_landmark.hub.push", "upload an exported folder to the Hugging Face Hub"),
}
FILE_VERBS = {"prepare", "synthesize"}  # these need neither the models nor torch


def main(argv: list[str] | None = None) -> int:
    """Runs one verb.

    Args:
        argv: Arguments without the program's name; those of the process by default.

    Returns:
        The exit code: 0 for success, 1 for a failed check, 2 for a user error, 130 after Ctrl-C.
    """
    argv = sys.argv[1:] if argv is None else argv
    if isinstance(sys.stdout, io.TextIOWrapper):  # escape what the terminal cannot encode, as stderr does
        sys.stdout.reconfigure(errors="backslashreplace")
    if not argv or argv[0] in ("-h", "--help"):
        say(*_usage())
        return 0 if argv else 2
    if argv[0] == "--version":
        say(f"timm-landmark {__version__}")
        return 0
    if argv[0] not in VERBS:
        say(f"timm-landmark: error: unknown verb {argv[0]!r}; choose from {', '.join(VERBS)}", file=sys.stderr)
        return 2
    try:
        if argv[0] not in FILE_VERBS:
            register_models()
        code = importlib.import_module(VERBS[argv[0]][0]).main(argv[1:])
        sys.stdout.flush()
        return code
    except UserError as error:
        say(f"timm-landmark {argv[0]}: error: {' '.join(str(error).splitlines())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        say("", f"timm-landmark {argv[0]}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of `timm-landmark ... | head` is gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:  # a full disk, a folder without write permission: no defect of this program
        place = f"{error.filename}: " if error.filename else ""
        say(f"timm-landmark {argv[0]}: error: {place}{error.strerror or error}; fix this and repeat", file=sys.stderr)
        return 2


def _usage() -> list[str]:
    width = max(map(len, VERBS))
    lines = [f"  {verb:<{width}}  {text}" for verb, (_, text) in VERBS.items()]
    return ["usage: timm-landmark VERB [options]   (timm-landmark VERB --help lists the options)", "", *lines]


if __name__ == "__main__":
    sys.exit(main())
