"""ONNX beside exported weights, held against them in onnxruntime."""

import warnings
from pathlib import Path

from timm_landmark.utils.errors import UserError
from timm_landmark.utils.hub_files import ONNX, VECTORS


def export_onnx(folder: Path, tolerance: float) -> float:
    """Writes FOLDER/model.onnx with a dynamic batch and compares it with the weights that lie there.

    Args:
        folder: An exported model with its test vectors.
        tolerance: The largest difference of a logit that is allowed, in units of the largest logit (or of 1).

    Returns:
        The largest difference found, over batches of 1, 2 and 3.

    Raises:
        UserError: If a package is missing, or onnxruntime's logits differ by more.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  (torch's exporter needs it)
    except ImportError as error:
        raise UserError(f"--onnx needs the package {error.name}: pip install 'timm-landmark[export]'") from None
    import torch

    from timm_landmark.hub.exported import load_model, read_tensors

    model, _ = load_model(str(folder))
    vectors, _ = read_tensors(folder / VECTORS)
    path = folder / ONNX
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (vectors["input"],),
            path,
            dynamo=True,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            external_data=False,
            verbose=False,
        )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    differences = []
    images = torch.cat([vectors["input"], vectors["input"].flip(-1)])  # (4, C, H, W)
    for batch in (1, 2, 3):
        (logits,) = session.run(None, {"images": images[:batch].numpy()})
        with torch.inference_mode():
            expected = model(images[:batch])
        scale = max(1.0, expected.abs().max().item())
        differences.append((torch.from_numpy(logits) - expected).abs().max().item() / scale)
    largest = max(differences)
    if not all(difference <= tolerance for difference in differences):  # max() passes over NaN
        raise UserError(
            f"--onnx: onnxruntime's logits differ by {largest:.1e}, more than {tolerance:.0e}; leave it out"
        )
    return largest
