"""What a model answers: probabilities, or an error where its answer is no number."""

from typing import TYPE_CHECKING

from timm_landmark.errors import UserError

if TYPE_CHECKING:
    import torch


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
