"""Heat maps: where a network looked for its answer, by Grad-CAM of the package ``grad-cam`` (extra ``explain``).

Grad-CAM weights the channels of a feature map by the mean gradient of a class's logit, adds them up and keeps what is
positive. "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization",
https://arxiv.org/abs/1610.02391
"""

import copy
import math
from dataclasses import dataclass
from functools import partial
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
    """A layer with a spatial map.

    Attributes:
        layer: Its name.
        side: Cells per side.
        start: Pixel of the input in the middle of what the first cell depends on. It is 0 in a padded ResNet, but far
            from the edge in an Inception network, whose convolutions are not padded.
        cell: Pixels from one cell to the next.
    """

    layer: str
    side: int
    start: float
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
        self._input_size, self._lock = input_size, Lock()
        self._offset = round(stage.start + 0.5 - stage.cell / 2)
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
        return _placed(heat, self._offset, side)


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
    modules = dict(model.named_modules())
    entries = {each["module"]: each for each in getattr(info, "info", info) if each.get("module") in modules}
    if not entries:
        return []
    shapes: dict[str, tuple[int, ...]] = {}
    grids = {input_size[1]: (0.0, 1)}  # by the size of the map: place of the first cell and distance between two

    def keep(name: str, module: "nn.Module", inputs: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor):
            shapes[name] = tuple(output.shape)
            if hasattr(module, "kernel_size"):
                _follow(module, inputs[0].shape[-1], output.shape[-1], grids)

    handles = [module.register_forward_hook(partial(keep, name)) for name, module in modules.items()]
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
            cell = entry.get("reduction") or input_size[1] / sides[0]
            middle = (input_size[1] - 1) / 2 - (sides[0] - 1) * cell / 2, cell  # if the layers cannot be followed
            found.append(Stage(name, sides[0], *grids.get(sides[0], middle)))
    return found


def _follow(module: Any, size: int, new_size: int, grids: dict[int, tuple[float, int]]) -> None:
    """Adds the grid of a map that a convolution or pooling layer makes of one with another size, if it is known how.

    The first branch of a block decides. The others end on the same grid, or half a pixel of the larger map beside it.
    """
    if size not in grids or new_size in grids:
        return
    values = (getattr(module, name, 1) for name in ("kernel_size", "stride", "padding", "dilation"))
    kernel, stride, padding, dilation = (each[-1] if isinstance(each, tuple) else each for each in values)
    if isinstance(padding, str):
        return
    reach = dilation * (kernel - 1)
    steps = (size + 2 * padding - reach - 1) / stride
    if new_size == 1 + (math.ceil(steps) if getattr(module, "ceil_mode", False) else math.floor(steps)):
        start, distance = grids[size]
        grids[new_size] = start + (reach / 2 - padding) * distance, distance * stride


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
    except ImportError as error:  # installed, but damaged or without a library that it needs
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


def _placed(heat: np.ndarray, offset: int, side: int) -> np.ndarray:
    """Moves heat (B, n, n) by ``offset`` pixels down and to the right, cut or extended to (B, side, side)."""
    places = np.arange(side).clip(offset, offset + heat.shape[1] - 1) - offset
    return heat[:, places][:, :, places]
