"""Shared by the tests of data sets in shards: one data set in both formats, a run on it, and a server for it."""

import functools
import shutil
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from train_cases import MODEL, train, train_script
from train_data import make_data, pack

from timm_landmark.data.check import check_dataset
from timm_landmark.inference.evaluate import main as evaluate
from timm_landmark.runs.folder import read_run_info


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("sharded") / "folders", classes=7, images=(6, 5, 4), size=48, contrast=0.3)


@pytest.fixture(scope="module")
def shards(folders, tmp_path_factory):
    data = pack(folders, tmp_path_factory.mktemp("sharded") / "shards")
    assert [problem for problem in check_dataset(data) if "digest" not in problem] == []
    return data


@pytest.fixture
def broken(shards, tmp_path):
    return shutil.copytree(shards, tmp_path / "broken")


@pytest.fixture(scope="module", autouse=True)
def no_script():
    """Without ``--train-script`` the stand-in trains."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("TIMM_TRAIN_SCRIPT", raising=False)
        patch.setenv("XDG_CACHE_HOME", "/nonexistent")
        yield


@pytest.fixture(params=["stand-in", pytest.param("script", marks=pytest.mark.script)])
def trainer(request):
    """The options that select the trainer."""
    return ["--train-script", str(train_script())] if request.param == "script" else []


@pytest.fixture(scope="module")
def trained(shards, tmp_path_factory):
    """Three epochs, trained by the stand-in."""
    run = tmp_path_factory.mktemp("trained") / f"{MODEL}-s3"
    assert train(shards, run, "--epochs", 3) == 0
    return run


@pytest.fixture
def server(shards):
    """Serves the data set, except the names in ``missing``; half of those in ``cut``; 503 for ``busy`` requests."""

    class Handler(SimpleHTTPRequestHandler):
        missing, cut, busy = set(), set(), 0

        def do_GET(self) -> None:
            name = self.path.lstrip("/")
            if self.busy:
                Handler.busy -= 1
                self.send_error(503)
            elif name in self.missing:
                self.send_error(404)
            elif name in self.cut:
                content = (shards / name).read_bytes()
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[: len(content) // 2])
            else:
                super().do_GET()

        def log_message(self, *args) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(shards)))
    http.daemon_threads, http.handler = True, Handler
    threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
    http.url = f"http://127.0.0.1:{http.server_port}"
    yield http
    http.shutdown()


def evaluated(run, *options):
    """The results of the test split in run.json, and the predictions."""
    assert evaluate([str(run), "--device", "cpu", *map(str, options)]) == 0
    return read_run_info(run)["evaluation"]["test"], (run / "predictions-test.csv").read_bytes()
