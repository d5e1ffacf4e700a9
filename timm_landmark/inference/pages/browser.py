"""The page of ``demo``: drop photos, see their names. Used by the verb and by the app.py of a Space."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timm_landmark.inference.answers import Answer, Label
from timm_landmark.inference.namer import Namer, name_photos
from timm_landmark.inference.pages.templates import data_uri, template
from timm_landmark.utils.errors import UserError
from timm_landmark.utils.text import printable

if TYPE_CHECKING:
    from gradio import Blocks

MOST_PHOTOS, MOST_MEGABYTES = 12, 32  # in one drop; size of a photo
QUALITY = 85  # of the JPEGs on the page
SHOWN = 400  # pixels, the longer side of a photo on the page
KEPT = 60  # seconds after which an upload without an answer is deleted
STYLE = """
.answer { border-top: 1px solid var(--border-color-primary); padding: 12px 0; }
.answer h2 { font-size: 1em; overflow-wrap: anywhere; }
.answer .columns, .answer .pictures { display: flex; flex-wrap: wrap; gap: 12px 24px; }
.answer .names { flex: 1 1 300px; min-width: 0; max-width: 620px; }
.answer figure { margin: 0; }
.answer img { max-width: min(100%, 280px); max-height: 280px; margin: 0; border-radius: 6px; }
.answer .verdict { font-size: 1.2em; font-weight: 600; margin: 0 0 8px; overflow-wrap: anywhere; }
.answer ol { list-style: none; padding: 0; }
.answer li { display: flex; flex-wrap: wrap; justify-content: space-between; column-gap: 12px; margin: 0 0 6px; }
.answer li span:first-child { overflow-wrap: anywhere; min-width: 0; flex: 1; }
.answer .bar { width: 100%; height: 8px; border-radius: 4px; background: var(--background-fill-secondary); }
.answer .bar div { height: 100%; border-radius: 4px; background: #2a6fb0; }
.answer.uncertain .bar div, .answer.none .bar div { background: #8a8f98; }
"""


@dataclass(frozen=True)
class Shown:
    """One photo on the page; ``state`` is its decision, or ``bad`` without a picture. Pictures are data URIs."""

    state: str
    verdict: str
    file: str | None = None
    picture: str | None = None
    heat: str | None = None
    guesses: tuple[tuple[str, float], ...] = ()
    truth: str | None = None


def load_gradio() -> Any:
    """Imports gradio with its telemetry off.

    Raises:
        UserError: If the extra ``demo`` is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # gradio reads it when it is imported
    try:
        import gradio
    except ImportError as error:
        raise UserError(f"demo needs the package {error.name}; run pip install 'timm-landmark[demo]'") from None
    return gradio


def build_app(namer: Namer, examples: Sequence[Path] = (), top: int = 5) -> "Blocks":
    """Builds the page.

    Args:
        namer: From :func:`timm_landmark.inference.namer.load_namer`.
        examples: Photos to click on. They are only read.
        top: Guesses per photo.

    Raises:
        UserError: If gradio is missing.
    """
    gradio = load_gradio()
    explain, note = _heat_maps(namer)
    from gradio.utils import get_upload_folder

    uploads = Path(get_upload_folder()).resolve()

    def answer(dropped: Any) -> tuple[str, None]:
        """Names the uploaded photos, deletes them, and empties the field for the next ones."""
        files = _uploaded(dropped, uploads)
        try:
            return render_answers(namer, files, top, explain), None
        finally:
            for path, _ in files:
                shutil.rmtree(path.parent, ignore_errors=True)  # gradio stores each file in a folder of its own

    def answer_example(index: int) -> str:
        return render_answers(namer, [(examples[index], examples[index].name)], top, explain)

    with gradio.Blocks(title="timm-landmark", analytics_enabled=False, delete_cache=(KEPT, KEPT)) as app:
        # HTML in Markdown, because gradio's HTML component needs eval, which the page's policy forbids
        head = _text("head.html.jinja", namer=namer, photos=MOST_PHOTOS, megabytes=MOST_MEGABYTES, note=note)
        gradio.Markdown(head, latex_delimiters=[])
        drop = gradio.File(file_count="multiple", label="Photos", height=160)
        result = gradio.Markdown(latex_delimiters=[])
        if examples:
            samples = gradio.Dataset(
                label="Examples from the validation split",
                components=[gradio.Image(render=False)],
                samples=[[str(path)] for path in examples],
                type="index",
            )
            samples.click(answer_example, samples, result, api_visibility="private")
        # without gradio's preprocessing: it would leave an empty file behind, and fetch addresses
        drop.upload(answer, drop, [result, drop], preprocess=False, api_visibility="private")
    return app


def _heat_maps(namer: Namer) -> tuple[bool, str | None]:
    """Whether there are heat maps for this model; if not, a sentence with the reason."""
    try:
        return bool(namer.explainer.layer), None
    except UserError as error:
        return False, f"The answers have no heat maps: {error}."


def appearance() -> dict[str, Any]:
    """Arguments of gradio's ``launch`` and ``mount_gradio_app``: nothing from the network, nothing kept."""
    gradio = load_gradio()
    fonts = ("system-ui", "sans-serif"), ("ui-monospace", "monospace")
    return {
        "theme": gradio.themes.Default(font=fonts[0], font_mono=fonts[1]),
        "css": STYLE,
        "footer_links": [],
        "run_history": False,
        "max_file_size": f"{MOST_MEGABYTES}mb",
        "show_error": False,
        "ssr_mode": False,
    }


def _uploaded(dropped: Any, uploads: Path) -> list[tuple[Path, str]]:
    """The uploaded files as (path, name of the user's file), from what the browser sent; others are left out."""
    found = []
    for each in dropped if isinstance(dropped, list) else []:
        path, name = (each.get("path"), each.get("orig_name")) if isinstance(each, dict) else (None, None)
        if not isinstance(path, str) or "\0" in path:
            continue
        place = Path(path).resolve()
        if place.parent.parent == uploads and place.is_file():
            found.append((place, name if isinstance(name, str) and name else place.name))
    return found


def render_answers(namer: Namer, files: Sequence[tuple[Path, str]], top: int, explain: bool = False) -> str:
    """Names photos and renders them as HTML in which all text from outside is escaped.

    Args:
        namer: The model.
        files: Path and shown name of each photo.
        top: Guesses per photo.
        explain: Whether to add heat maps.
    """
    if len(files) > MOST_PHOTOS:
        shown = [Shown("bad", f"{len(files)} photos are too many; drop at most {MOST_PHOTOS} at a time.")]
    elif not files:
        shown = [Shown("bad", "No photo arrived; drop it again.")]
    else:
        try:
            paths = [path for path, _ in files]
            answers = name_photos(namer, paths, top, 1, 1, thumbnails=True, explain=explain, side=SHOWN)
            shown = [_shown(answer, name, namer.labels) for answer, (_, name) in zip(answers, files, strict=True)]
        except UserError as error:  # of the model
            shown = [Shown("bad", f"{printable(str(error))}.")]
    return _text("answers.html.jinja", photos=shown, cropped=namer.crop_pct < 1)


def _shown(answer: Answer, name: str, labels: Sequence[Label]) -> Shown:
    file = printable(name, 80)
    if answer.photo.problem:
        return Shown("bad", f"This photo cannot be used. {_sentence(answer.photo.problem)}", file)
    guesses = tuple((printable(labels[each.index].name, 80), each.probability) for each in answer.guesses)
    return Shown(
        state=answer.decision,
        verdict=_verdict(answer, *guesses[0]),
        file=file,
        picture=data_uri(answer.photo.thumbnail, QUALITY) if answer.photo.thumbnail else None,
        heat=data_uri(answer.heat, QUALITY) if answer.heat else None,
        guesses=guesses,
        truth=printable(answer.truth.name, 80) if answer.truth else None,
    )


def _verdict(answer: Answer, name: str, probability: float) -> str:
    if answer.decision == "landmark":
        return name
    start = "Not certain" if answer.decision == "uncertain" else "None of the model's landmarks"
    return f"{start} (best guess {name}, {100 * probability:.0f} %)"


def _sentence(problem: str) -> str:
    """The reason why a photo cannot be decoded, for readers of the page."""
    category, _, detail = printable(problem, 200).partition(": ")
    return {
        "empty": "The file is empty.",
        "html": "It is a web page, not an image.",
        "truncated": "The file is incomplete.",
        "too many pixels": f"It has too many pixels ({detail}).",
        "format": f"Its format is not supported ({detail}).",
        "undecodable": "It is not an image, or it is damaged.",
    }.get(category, f"{printable(problem, 200)}.")


def _text(name: str, **values: Any) -> str:
    return " ".join(template(name).render(**values).split())  # an empty line would end the HTML and begin Markdown
