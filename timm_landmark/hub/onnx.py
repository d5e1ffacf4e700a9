"""ONNX export of an exported model, checked with onnxruntime."""

import warnings
from pathlib import Path

from timm_landmark.utils.errors import UserError
from timm_landmark.utils.hub_files import ONNX, VECTORS


def export_onnx(folder: Path, tolerance: float) -> float:
    """Writes FOLDER/model.onnx with a dynamic batch size and compares its logits with those of the weights.

    Args:
        folder: An exported model, with test vectors.
        tolerance: Largest allowed difference of a logit, relative to the largest logit or 1.

    Returns:
        The largest difference over batches of 1, 2 and 3.

    Raises:
        UserError: If a package is missing, or the logits differ by more than ``tolerance``.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  (needed by torch's exporter)
    except ImportError as error:
        raise UserError(f"--onnx needs the package {error.name}; run pip install 'timm-landmark[export]'") from None
    import torch

    from timm_landmark.hub.exported import load_model, read_tensors

    model, _ = load_model(str(folder))
    vectors, _ = read_tensors(folder / VECTORS)
    path = folder / ONNX
    with warnings.catch_warnings():  # the filters are global; safe here, because export runs in a single thread
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
    if not all(difference <= tolerance for difference in differences):  # max() may ignore NaN
        raise UserError(
            f"--onnx: onnxruntime's logits differ by {largest:.1e}, more than {tolerance:.0e}; export without --onnx"
        )
    return largest
