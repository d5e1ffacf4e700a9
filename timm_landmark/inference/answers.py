"""Predictions for photos: labels, guesses and probabilities, with an error for NaN and infinity."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image

from timm_landmark.inference.photos import Photo
from timm_landmark.runs.thresholds import Decision
from timm_landmark.utils.errors import UserError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Label:
    """A class as shown to users: the landmark's id and its name."""

    landmark_id: str
    name: str


@dataclass(frozen=True)
class Guess:
    """A class index and its probability."""

    index: int
    probability: float


@dataclass(frozen=True)
class Answer:
    """The guesses for one photo, the most likely first; empty if the photo has a ``problem``.

    ``truth`` is the true class if the photo is in a prepared data set. ``known`` is False if the model does not have
    this class. ``heat`` is the thumbnail with the places that led to the first guess marked, if it was asked for, and
    ``layer`` the layer of the network that shows them.
    """

    photo: Photo
    guesses: tuple[Guess, ...] = ()
    truth: Label | None = None
    known: bool = True
    decision: Decision = "landmark"
    heat: Image.Image | None = None
    layer: str | None = None


def probabilities(logits: "torch.Tensor", source: object) -> "torch.Tensor":
    """Computes probabilities from logits, in float32.

    Args:
        logits: Shape (B, classes), any floating type.
        source: Where the model's weights come from, for the error message.

    Raises:
        UserError: If a logit is NaN or infinite.
    """
    logits = logits.float()
    if not logits.isfinite().all():
        raise UserError(
            f"{source}: the model's logits are not finite (NaN or infinity), so its weights are damaged or the "
            "training diverged; download or export it again, or train again with a lower --lr"
        )
    return logits.softmax(-1)
