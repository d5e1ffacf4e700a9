"""examples/quickstart.ipynb: small, without local paths, and it runs."""

import json
import os
import re
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).resolve().parents[1] / "examples" / "quickstart.ipynb"
LARGEST = 300_000  # bytes, with outputs


def test_the_notebook_is_small_and_names_no_path_of_a_machine():
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert len(text) < LARGEST
    assert not re.search(r"(?<![\w.])/(home|root|tmp|work|Users|usr)/", text)
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    assert not [
        output for cell in cells for output in cell["outputs"] if output.get("name") == "stderr" or "ename" in output
    ]


@pytest.mark.full
def test_the_notebook_runs(tmp_path, monkeypatch):
    pytest.importorskip("ipykernel", reason="needs ipykernel, which the extra test has")
    nbclient = pytest.importorskip("nbclient", reason="needs nbclient, which the extra test has")
    import nbformat

    monkeypatch.setenv("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(
        notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    said = "".join(output.get("text", "") for output in outputs)
    assert said.count("mean 0.500") >= 4, "Scale before training"
    assert "6 epochs" in said and "20 images of test" in said
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2, "landmarks and confusion matrix"
