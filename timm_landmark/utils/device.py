"""The default device, and the check of a device given by the user."""

from timm_landmark.utils.errors import UserError, first_line


def default_device() -> str:
    """``cuda`` if available, else ``mps``, else ``cpu``."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def check_device(device: str) -> None:
    """Checks that torch can compute on a device.

    Raises:
        UserError: If the device is unknown or unavailable.
    """
    import torch

    try:
        torch.zeros(1, device=device).item()
    except Exception as error:  # devices fail with many exception types
        raise UserError(f"--device {device}: not available ({first_line(error)}); use --device cpu") from None
