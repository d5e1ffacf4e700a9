"""A loopback download server that misbehaves as real ones do."""

import hashlib
import random
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from timm_landmark.data.prepare.download import Retry

QUICK = Retry(attempts=4, first_wait=0.01, longest_wait=1.2, timeout=1)


class Server:
    """Serves ``files``; ``faults`` has, for each path, the failures of its next requests, in order."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, list[str]] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.tags = True  # send an ETag with every file and obey If-Range
        self.sent: Counter = Counter()
        self.slow = 0.0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.answer(self)

            def log_message(self, *args) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        path = handler.path.lstrip("/")
        self.requests.append((path, handler.headers.get("Range")))
        fault = self.faults[path].pop(0) if self.faults.get(path) else ""
        if path not in self.files:
            return self.error(handler, 404)
        if fault.startswith("status"):
            _, code, *after = fault.split(" ", 2)
            return self.error(handler, int(code), after[0] if after else None)
        if fault == "hang":
            time.sleep(QUICK.timeout + 0.5)
            handler.close_connection = True
            return None
        content = self.files[path]
        start, tag = 0, f'"{md5(content)}"'
        same = fault == "ignore If-Range" or handler.headers.get("If-Range", tag) == tag
        obeyed = same and "ignore range" not in fault
        if (wanted := handler.headers.get("Range")) and obeyed:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(content):
                handler.send_response(416)
                handler.send_header("Content-Range", f"bytes */{len(content)}")
                handler.send_header("Content-Length", "0")
                handler.end_headers()
                return None
            if fault == "other range":
                start = 0
            handler.send_response(206)
            handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            handler.send_response(200)
        body = content[start:]
        if fault == "wrong bytes":
            body = bytes([body[0] ^ 1]) + body[1:]
        handler.send_header("Content-Length", str(len(body)))
        if self.tags:
            handler.send_header("ETag", tag)
        handler.end_headers()
        if "cut" in fault:
            body = body[: max(1, len(body) // 2)]
            handler.close_connection = True
        for offset in range(0, len(body), 1 << 14):
            self.sent[path] += len(
                body[offset : offset + (1 << 14)]
            )  # before the client can have received the last byte
            handler.wfile.write(body[offset : offset + (1 << 14)])
            time.sleep(self.slow)
        return None

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *error: object) -> None:
        self.http.shutdown()
        self.http.server_close()

    @staticmethod
    def error(handler: BaseHTTPRequestHandler, code: int, retry_after: str | None = None) -> None:
        handler.send_response(code)
        if retry_after:
            handler.send_header("Retry-After", retry_after)
        handler.send_header("Content-Length", "0")
        handler.end_headers()


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()
