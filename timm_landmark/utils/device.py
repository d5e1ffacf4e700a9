"""Where a model computes: the best device at hand, and a check of the one that was named."""

from timm_landmark.utils.errors import UserError, first_line


def default_device() -> str:
    """``cuda`` where there is one, else ``mps``, else ``cpu``."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def check_device(device: str) -> None:
    """Refuses a device that torch does not know, that is not there or that cannot compute.

    Raises:
        UserError: Naming ``--device``.
    """
    import torch

    try:
        torch.zeros(1, device=device).item()
    except Exception as error:  # torch's devices fail in many ways
        raise UserError(f"--device {device}: not available ({first_line(error)}); give --device cpu") from None
