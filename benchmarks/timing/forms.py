"""The forms in which a model is trained and deployed (eager, compiled, exported ...), as steps to be timed."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch.export import Dim

FORMS = ("eager", "bf16 autocast", "torch.compile", "torch.export", "onnxruntime")
GRAPHS = ("torch.export", "onnxruntime")  # exported to a file, for inference only


def make_step(form: str, net: torch.nn.Module, img_size: int, batch: int, device: str) -> Callable[[], object]:
    """One step: in training mode forward, backward and freeing the gradients, otherwise forward without gradients.

    Args:
        form: One of ``FORMS``.
        net: A network in training or evaluation mode.
        img_size: Side of its images in pixels.
        batch: Number of images.
        device: cpu or cuda.
    """
    if form in GRAPHS:
        with tempfile.TemporaryDirectory() as folder:
            write_graph(form, net, img_size, Path(folder) / "graph")
            return read_graph(form, Path(folder) / "graph", img_size, batch)
    x = torch.randn(batch, 3, img_size, img_size, device=device)
    y = torch.randint(0, 1000, (batch,), device=device)
    called = torch.compile(net) if form == "torch.compile" else net
    autocast = torch.autocast(torch.device(device).type, torch.bfloat16, enabled=form == "bf16 autocast")

    def train() -> None:
        with autocast:
            loss = torch.nn.functional.cross_entropy(called(x), y)
        loss.backward()
        net.zero_grad(set_to_none=True)

    def infer() -> None:
        with torch.inference_mode(), autocast:
            called(x)

    return train if net.training else infer


def write_graph(form: str, net: torch.nn.Module, img_size: int, path: Path) -> None:
    """Exports a network in evaluation mode to a file, with a dynamic batch size and a fixed image size."""
    x, batch = torch.randn(2, 3, img_size, img_size), Dim("batch", min=1, max=1024)
    if form == "onnxruntime":
        dynamic_shapes = ({0: batch},)
        torch.onnx.export(
            net, (x,), path, dynamo=True, external_data=False, verbose=False, dynamic_shapes=dynamic_shapes
        )
    else:
        with open(path, "wb") as file:
            torch.export.save(torch.export.export(net, (x,), dynamic_shapes=({0: batch},)), file)


def read_graph(form: str, path: Path, img_size: int, batch: int) -> Callable[[], object]:
    """A step that runs an exported graph with as many threads as torch uses."""
    x = torch.randn(batch, 3, img_size, img_size)
    if form == "onnxruntime":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        feed = {session.get_inputs()[0].name: x.numpy()}
        return lambda: session.run(None, feed)
    with open(path, "rb") as file:
        net = torch.export.load(file).module()

    def infer() -> None:
        with torch.inference_mode():
            net(x)

    return infer
