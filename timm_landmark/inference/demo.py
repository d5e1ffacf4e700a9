"""``timm-landmark demo``: a page on this machine to try a model in the browser."""

import base64
import hashlib
import os
import re
import signal
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from timm_landmark.data.address import Place
from timm_landmark.data.check import stored_name
from timm_landmark.data.images import settle_process
from timm_landmark.data.layout import ManifestRow, data_digest, read_rows
from timm_landmark.inference.namer import add_threshold_options, check_threshold_options, load_namer, with_thresholds
from timm_landmark.inference.pages.browser import (
    MOST_MEGABYTES,
    MOST_PHOTOS,
    appearance,
    build_app,
    load_gradio,
)
from timm_landmark.runs.folder import INFO
from timm_landmark.runs.model import load_run
from timm_landmark.utils.errors import UserError
from timm_landmark.utils.hub_files import CONFIG
from timm_landmark.utils.parser import Parser, check_least
from timm_landmark.utils.text import say

if TYPE_CHECKING:
    from gradio import Blocks

HOST = "127.0.0.1"  # not reachable from other machines
PORT, MORE_PORTS = 7860, 20  # gradio's port; how many are tried without --port
EXAMPLES = 6
# Everything that the page loads comes from this server. Gradio's page has inline styles; its inline scripts are allowed
# by their hashes, so that no other one can run.
POLICY = (
    "default-src 'none'; script-src 'self'{scripts}; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "font-src 'self' data:; connect-src 'self'; manifest-src 'self'; base-uri 'self'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_SCRIPT = re.compile(rb"<script\b[^>]*>(.*?)</script>", re.DOTALL)


def main(argv: list[str]) -> int:
    """Runs the verb until Ctrl-C.

    Raises:
        UserError: If the model cannot be loaded, the port is in use, or gradio is missing.
        KeyboardInterrupt: At Ctrl-C.
    """
    parser = Parser(
        prog="timm-landmark demo",
        description=(
            "Starts a page on this machine to try a model in the browser: drop photos, see their landmarks. The page "
            "is not reachable from other machines, loads nothing from the network, and keeps no photo."
        ),
    )
    parser.add_argument("model", metavar="RUN|FOLDER|hf-hub:ORG/NAME", help="output of train, export or push")
    parser.add_argument("--port", type=int, metavar="N", help=f"default: {PORT}, or the next one that is free")
    parser.add_argument("--top", type=int, default=5, metavar="K", help="guesses per photo (default: 5)")
    add_threshold_options(parser)
    parser.add_argument("--device", help="default: cuda if available, else mps, else cpu")
    options = parser.parse_args(argv)
    check_least(options, top=1)
    check_threshold_options(options)
    with private_uploads(), listening(options.port) as server:
        load_gradio()
        settle_process()
        namer = with_thresholds(load_namer(options.model, options.device), options)
        app = build_app(namer, example_photos(options.model), options.top)
        say(f"{namer.title}: http://{HOST}:{server.getsockname()[1]} (Ctrl-C ends it)")
        serve(app, server)


def serve_space(model: str) -> None:
    """Serves the page in a Hugging Face Space, where Gradio's own settings give address and port.

    Args:
        model: An exported folder, or ``hf-hub:ORG/NAME[@REVISION]``.

    Raises:
        SystemExit: If the model cannot be loaded, with the reason, and at the end.
    """
    settle_process()
    with private_uploads():
        try:
            app = build_app(load_namer(model))
        except UserError as error:
            raise SystemExit(str(error)) from None
        app.launch(**appearance())


def example_photos(source: str) -> list[Path]:
    """Photos of a run's validation split, each of another class; empty if its data set is not there as image folders.

    Args:
        source: As for :func:`timm_landmark.inference.namer.load_namer`.
    """
    if (Path(source) / CONFIG).is_file() or not (Path(source) / INFO).is_file():
        return []
    run = load_run(Path(source))
    data: Place | None = run.data
    if not isinstance(data, Path):
        return []
    try:
        if data_digest(data) != run.info.get("data_digest"):
            return []
        rows = read_rows(data, ManifestRow)
    except (UserError, OSError, ValueError):
        return []  # damaged: a page without examples is still useful
    first = {row.folder: row for row in reversed(rows) if row.split == "validation"}
    photos = [data / stored_name(first[folder]) for folder in sorted(first)]
    photos = [path for path in photos if path.is_file()]
    step = max(1, len(photos) // EXAMPLES)
    return photos[::step][:EXAMPLES]


@contextmanager
def private_uploads() -> Iterator[Path]:
    """Keeps Gradio's files in a temporary folder that is deleted at the end, also after SIGTERM.

    Gradio creates its folder when it is imported, so this comes first.
    """
    before, handler = os.environ.get("GRADIO_TEMP_DIR"), signal.signal(signal.SIGTERM, _exit)
    try:
        with tempfile.TemporaryDirectory(prefix="timm-landmark-demo-", ignore_cleanup_errors=True) as folder:
            os.environ["GRADIO_TEMP_DIR"] = folder
            yield Path(folder)
    finally:
        signal.signal(signal.SIGTERM, handler)
        os.environ.pop("GRADIO_TEMP_DIR")
        if before is not None:
            os.environ["GRADIO_TEMP_DIR"] = before


def _exit(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


@contextmanager
def listening(port: int | None) -> Iterator[socket.socket]:
    """Yields a listening socket on this machine's own interface.

    Args:
        port: The port; None takes the first free one from :data:`PORT` on.

    Raises:
        UserError: If the port cannot be used.
    """
    if port is not None and not 0 <= port <= 65535:
        raise UserError(f"--port {port}: must be from 0 (any free port) to 65535")
    wanted: Sequence[int] = range(PORT, PORT + MORE_PORTS) if port is None else (port,)
    reason = ""
    for each in wanted:
        server = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            if os.name == "posix":  # a port of a server that has just ended can be used; on Windows it would be shared
                server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind((HOST, each))
            server.listen(128)
        except OSError as error:
            server.close()
            reason = error.strerror or str(error)
            continue
        if port is None and each != PORT:
            say(f"port {PORT} is in use; using {each}")
        with server:
            yield server
        return
    if port is None:
        raise UserError(f"--port: none of {PORT} to {PORT + MORE_PORTS - 1} is free ({reason}); name one with --port")
    raise UserError(f"--port {port} cannot be used ({reason}); choose another one, or omit it for the next free one")


def serve(app: "Blocks", server: socket.socket) -> NoReturn:
    """Serves the page until SIGINT, which raises KeyboardInterrupt, with headers that allow nothing from elsewhere."""
    import uvicorn
    from fastapi import FastAPI
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    gradio = load_gradio()
    site = FastAPI(openapi_url=None)
    site.add_middleware(Guard)
    site.add_middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])  # against DNS rebinding
    gradio.mount_gradio_app(site, app, path="/", server_name=HOST, server_port=server.getsockname()[1], **appearance())
    config = uvicorn.Config(site, log_level="warning", timeout_graceful_shutdown=1, server_header=False)
    uvicorn.Server(config).run(sockets=[server])
    raise KeyboardInterrupt  # asyncio may swallow the signal that uvicorn raises again at its end


class Guard:
    """Adds :data:`POLICY` to every answer and refuses requests that are larger than all photos of a drop."""

    def __init__(self, app: Any, most_bytes: int = (MOST_PHOTOS * MOST_MEGABYTES + 1) << 20) -> None:
        self.app, self.most_bytes = app, most_bytes

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Handles one request, as an ASGI application."""
        from starlette.responses import PlainTextResponse

        start: dict[str, Any] = {}
        page = b""

        async def guarded(message: Any) -> None:
            nonlocal page
            if message["type"] == "http.response.start":
                start.update(message)
                return
            if start and message["type"] == "http.response.body":
                if dict(start["headers"]).get(b"content-type", b"").startswith(b"text/html"):
                    page += message.get("body", b"")
                    if message.get("more_body"):
                        return
                    message = {**message, "body": page}
                await send({**start, "headers": [*start["headers"], *_headers(page)]})
                start.clear()
            await send(message)

        app = self.app
        length = dict(scope.get("headers") or ()).get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self.most_bytes:
            app = PlainTextResponse(f"more than {self.most_bytes} bytes", 413)
        await app(scope, receive, guarded)


def _headers(page: bytes) -> list[tuple[bytes, bytes]]:
    """Headers for an HTML page, or for another answer if it is empty."""
    digests = (hashlib.sha256(script).digest() for script in _SCRIPT.findall(page))
    scripts = "".join(f" 'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    values = {
        "content-security-policy": POLICY.format(scripts=scripts),
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
    }
    return [(name.encode(), value.encode()) for name, value in values.items()]
