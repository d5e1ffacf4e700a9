"""What a model answers: labels, guesses and probabilities, or an error where its answer is no number."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from timm_landmark.inference.photos import Photo
from timm_landmark.utils.errors import UserError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Label:
    """A class as a person knows it: the landmark's id and its name."""

    landmark_id: str
    name: str


@dataclass(frozen=True)
class Guess:
    """A class index and its probability."""

    index: int
    probability: float


@dataclass(frozen=True)
class Answer:
    """One photo's guesses, the likeliest first, or the ``problem``; ``truth`` where the photo's place tells it.

    ``known`` is False where the photo's true class is none of the model's.
    """

    photo: Photo
    guesses: tuple[Guess, ...] = ()
    truth: Label | None = None
    known: bool = True


def probabilities(logits: "torch.Tensor", source: object) -> "torch.Tensor":
    """The probabilities of a model's answers, in float32.

    Args:
        logits: Shape (B, classes), any floating type.
        source: Where the model's weights are from, for the message.

    Raises:
        UserError: If a logit is NaN or infinite.
    """
    logits = logits.float()
    if not logits.isfinite().all():
        raise UserError(
            f"{source}: the model's answers are not finite numbers (NaN or infinity); its weights are damaged or the "
            "training diverged: fetch or export it anew, or train again with a lower --lr"
        )
    return logits.softmax(-1)
