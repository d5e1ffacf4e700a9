"""What a model answers: probabilities, or an error where its answer is no number."""

from typing import TYPE_CHECKING

from timm_landmark.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import nn


def probabilities(model: "nn.Module", images: "torch.Tensor", source: object) -> "torch.Tensor":
    """The model's probabilities for a batch of images, shape (B, classes), in float32.

    Args:
        model: A classifier, in eval mode.
        images: Shape (B, channels, P, P), on the model's device.
        source: Where its weights are from, for the message.

    Raises:
        UserError: If a logit is NaN or infinite.
    """
    logits = model(images).float()
    if not logits.isfinite().all():
        raise UserError(
            f"{source}: the model's answers are not finite numbers (NaN or infinity); its weights are damaged or the "
            "training diverged: fetch or export it anew, or train again with a lower --lr"
        )
    return logits.softmax(-1)
