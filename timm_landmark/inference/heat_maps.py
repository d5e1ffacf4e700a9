"""Heat maps: where a network looked for its answer, by Grad-CAM of the package ``grad-cam`` (extra ``explain``).

Grad-CAM weights the channels of a feature map by the mean gradient of a class's logit, adds them up and keeps what is
positive. "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization",
https://arxiv.org/abs/1610.02391
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from timm_landmark.utils.errors import UserError, first_line

if TYPE_CHECKING:
    import torch
    from torch import nn

LEAST_CELLS = 4  # a smaller map hardly shows a place
COLOURS = "inferno"  # of matplotlib
STRENGTH = 0.75  # opacity of the colour where the heat is 1
UNSEEN = 0.35  # brightness of what the crop removes
INSTALL = "run pip install 'timm-landmark[explain]'"


def is_available() -> bool:
    """Whether the extra ``explain`` is installed; imports nothing."""
    return all(find_spec(name) is not None for name in ("pytorch_grad_cam", "matplotlib"))


def check_available(purpose: str) -> None:
    """Checks that the extra is installed; ``purpose`` starts the message, such as ``--explain``.

    Raises:
        UserError: If it is not, with the command that installs it.
    """
    if not is_available():
        raise UserError(f"{purpose} needs the package grad-cam; {INSTALL}")


@dataclass(frozen=True)
class Stage:
    """A layer with a spatial map of ``side`` x ``side`` cells, ``cell`` pixels of the input apart."""

    layer: str
    side: int
    cell: float


class Explainer:
    """Heat maps of one model, from :func:`load_explainer`.

    It works on a copy of the modules that shares the weights, so the model itself gets no hooks and no gradients, and
    can be used at the same time. It does not follow the model to another device.

    Attributes:
        layer: Name of the layer whose map is used.
    """

    def __init__(self, twin: "nn.Module", stage: Stage, input_size: tuple[int, int, int]) -> None:
        grad_cam = _grad_cam()
        self.layer = stage.layer
        self._stage, self._input_size, self._lock = stage, input_size, Lock()
        span = round(stage.side * stage.cell)
        swap = _to_channels_first if getattr(twin, "output_fmt", "NCHW") == "NHWC" else None
        module = twin.get_submodule(stage.layer)
        # The graph starts at the layer: nothing before it is kept for the backward pass.
        module.register_forward_hook(lambda _module, _inputs, output: output.detach().requires_grad_())
        self._cam = grad_cam(twin, [module], reshape_transform=swap)
        self._cam.get_target_width_height = lambda _images: (span, span)
        # The next layer may work in place, which would change the map that was kept.
        module.register_forward_hook(lambda _module, _inputs, output: output.clone())

    def heat(self, images: "torch.Tensor", classes: "torch.Tensor") -> np.ndarray:
        """Computes where the network looked for a class, relative to the other places of the same image.

        Args:
            images: Model inputs, shape (B, C, P, P).
            classes: A class index per image, shape (B,).

        Returns:
            Shape (B, P, P), float32 in 0..1. All zeros if no place speaks for the class.

        Raises:
            ValueError: If the shapes do not fit the model or each other.
        """
        import torch
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        if tuple(images.shape[1:]) != self._input_size or classes.shape != images.shape[:1]:
            expected = ", ".join(map(str, self._input_size))
            raise ValueError(
                f"images {tuple(images.shape)} and classes {tuple(classes.shape)}: must be (B, {expected}) and (B,)"
            )
        side = self._input_size[1]
        if not len(images):
            return np.zeros((0, side, side), np.float32)
        targets: list[Any] = [ClassifierOutputTarget(index) for index in classes.tolist()]
        with self._lock, torch.inference_mode(False), torch.enable_grad():
            try:
                heat = self._cam(images.detach().clone(), targets)  # tensors of inference mode have no gradients
            finally:
                self._cam.activations_and_grads.clear()
                self._cam.outputs = None
        return _fitted(heat, side)


def load_explainer(model: "nn.Module", input_size: tuple[int, int, int]) -> Explainer:
    """Chooses the layer and prepares the heat maps of a model.

    The layer is the deepest of the model's stages (timm's ``feature_info``) whose map has at least 4x4 cells for this
    input, or the one with the most cells if there is none.

    Args:
        model: A timm model with a classifier.
        input_size: Channels, height and width of its input.

    Raises:
        UserError: If the extra ``explain`` is missing, the input is not square, or no stage has a spatial map.
    """
    _grad_cam()
    if input_size[1] != input_size[2]:
        raise UserError(
            f"heat maps need a square input, but that of the model is {input_size[1]}x{input_size[2]} pixels"
        )
    twin = _twin(model)
    stages = find_stages(twin, input_size)
    if not stages:
        raise UserError(
            f"heat maps need a network with spatial feature maps, but {type(model).__name__} has none (as a vision "
            "transformer); use a convolutional network, or do without heat maps"
        )
    large = [stage for stage in stages if stage.side >= LEAST_CELLS]
    return Explainer(twin, large[-1] if large else max(stages, key=lambda stage: stage.side), input_size)


def find_stages(model: "nn.Module", input_size: tuple[int, int, int]) -> list[Stage]:
    """The stages of a timm model that have a spatial map, from the first to the deepest.

    Args:
        model: The model, in eval mode.
        input_size: Channels, height and width of its input, a square.
    """
    import torch

    info: Any = getattr(model, "feature_info", None) or []
    shapes: dict[str, tuple[int, ...]] = {}
    modules = dict(model.named_modules())
    entries = {each["module"]: each for each in getattr(info, "info", info) if each.get("module") in modules}

    def keep(name: str) -> Callable[..., None]:
        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            shapes[name] = tuple(output.shape) if isinstance(output, torch.Tensor) else ()

        return hook

    handles = [modules[name].register_forward_hook(keep(name)) for name in entries]
    try:
        first = next(model.parameters())
        with torch.inference_mode():
            model(torch.zeros(1, *input_size, device=first.device, dtype=first.dtype))
    finally:
        for handle in handles:
            handle.remove()
    last = getattr(model, "output_fmt", "NCHW") == "NHWC"
    found = []
    for name, entry in entries.items():
        shape = shapes.get(name, ())
        sides = shape[1:3] if last else shape[2:]
        if len(shape) == 4 and sides[0] == sides[1]:
            found.append(Stage(name, sides[0], entry.get("reduction") or input_size[1] / sides[0]))
    return found


def uncropped(heat: np.ndarray, crop_pct: float) -> np.ndarray:
    """Places heat on the whole photo, of which the network saw the centre only.

    Args:
        heat: Heat of a model input, shape (P, P).
        crop_pct: As of timm's transform, which resizes the photo to P / crop_pct pixels per side first.

    Returns:
        Heat of the photo, squashed to a square of P / crop_pct pixels per side; NaN where the network did not look.
    """
    side = len(heat)
    total = math.floor(side / crop_pct)
    if total < side:  # the photo was padded
        start = (side - total) // 2
        return heat[start : start + total, start : start + total]
    start = round((total - side) / 2)  # as torchvision's center_crop
    return np.pad(heat, (start, total - side - start), constant_values=np.nan)


def overlay(photo: Image.Image, heat: np.ndarray) -> Image.Image:
    """Draws heat over the photo: the photo in grey, the heat in colour, the places of NaN dark.

    Args:
        photo: Any size and mode.
        heat: In 0..1 or NaN, any shape (H, W); it is stretched over the whole photo. See :func:`uncropped`.

    Returns:
        An RGB image of the photo's size.
    """
    from matplotlib import colormaps

    seen = np.isfinite(heat)
    share, lit = (
        np.asarray(Image.fromarray(values.astype(np.float32)).resize(photo.size, how))[..., None]
        for values, how in (
            (np.where(seen, heat, 0), Image.Resampling.BILINEAR),
            (seen, Image.Resampling.NEAREST),
        )
    )
    grey = np.asarray(photo.convert("L"), np.float32)[..., None]
    colour = 255 * colormaps[COLOURS](share[..., 0])[..., :3]
    pixels = grey + (colour - grey) * (STRENGTH * share)
    return Image.fromarray((pixels * np.where(lit > 0, 1, UNSEEN)).clip(0, 255).astype(np.uint8))


def _grad_cam() -> Any:
    check_available("a heat map")
    try:
        from pytorch_grad_cam import GradCAM
    except ImportError as error:  # installed, but OpenCV may miss a library of the system
        raise UserError(f"the package grad-cam cannot be imported ({first_line(error, 120)}); {INSTALL}") from None
    return GradCAM


def _twin(model: "nn.Module") -> "nn.Module":
    """A copy of the modules in eval mode, with the same weights in memory, which do not need gradients."""
    from torch import nn

    memo: dict[int, Any] = {id(each): nn.Parameter(each.detach(), requires_grad=False) for each in model.parameters()}
    memo |= {id(each): each for each in model.buffers()}
    return copy.deepcopy(model, memo).eval()


def _to_channels_first(maps: "torch.Tensor") -> "torch.Tensor":
    return maps.permute(0, 3, 1, 2)


def _fitted(heat: np.ndarray, side: int) -> np.ndarray:
    """Cuts or extends (B, n, n) at all sides to (B, side, side).

    The cells of a map lie around the centre of the image, each ``reduction`` pixels from the next. In a network whose
    convolutions are not padded, such as Inception, they do not reach the edges; in others they may reach beyond them.
    """
    extra = side - heat.shape[1]
    before = abs(extra) // 2
    if extra < 0:
        return heat[:, before : before + side, before : before + side]
    spread = (before, extra - before)
    return np.pad(heat, ((0, 0), spread, spread), mode="edge")
