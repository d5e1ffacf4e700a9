"""A Hugging Face Hub on the loopback interface, for tests: repositories held in memory, and faults on demand.

It supports the requests of huggingface_hub: HEAD and GET of ``/ORG/NAME/resolve/REVISION/FILE`` (with ranges), model
and tree information, and the routes of an upload (create, branch, preupload, commit). The repository of a Space is
``hub.repos["spaces/ORG/NAME"]``. Use::

    with LoopbackHub() as hub:
        commit = hub.add("org/name", folder)
        subprocess.run(..., env=hub.env(cache))     # a fresh process: HF_ENDPOINT is read at import
        hub.fail(500, file="model.safetensors")     # until hub.heal()
"""

import base64
import hashlib
import json
import os
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

TOKEN = "hf_loopback"  # the one token that may write, and read private repositories
_RESOLVE = re.compile(r"/((?:spaces/)?[^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_API = re.compile(
    r"/api/(?:models/|(?=spaces/))((?:spaces/)?[^/]+/[^/]+?)(?:/(revision|tree|preupload|commit|branch)/([^/?]+))?"
)
_MESSAGES = {
    401: ("RepoNotFound", "Invalid username or password."),
    403: (None, "Access to this resource is forbidden"),
    404: ("RepoNotFound", "Repository not found"),
    429: (None, "Too many requests"),
    500: (None, "Internal Error"),
    503: (None, "Service unavailable"),
}


@dataclass
class Repo:
    """Commits (40 hex digits -> path -> bytes) and the names that point to them."""

    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, files: Mapping[str, bytes], revision: str) -> str:
        text = repr([len(self.commits), [(name, hashlib.sha1(data).hexdigest()) for name, data in files.items()]])
        sha = hashlib.sha1(text.encode()).hexdigest()
        self.commits[sha] = dict(files)
        self.refs[revision] = sha
        return sha


class LoopbackHub:
    """The server; a context manager. ``requests`` lists (method, path) of all requests."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.requests: list[tuple[str, str]] = []
        self.card_errors: list[str] = []  # what the Hub finds wrong with the metadata of a card
        self.faults: list[tuple[int | str, str | None, int | None]] = []

    def __enter__(self) -> "LoopbackHub":
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        """The value for HF_ENDPOINT."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def env(self, cache: Path, token: str | None = None, **more: str) -> dict[str, str]:
        """The environment for a process that uses only this Hub, with ``cache`` as its cache."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            inherited.pop(name, None)
            inherited.pop(name.upper(), None)
        env = dict(inherited, HF_ENDPOINT=self.url, HF_HOME=str(cache), HF_HUB_DISABLE_XET="1", NO_PROXY="127.0.0.1")
        env.update(
            HF_HUB_DISABLE_TELEMETRY="1", HF_HUB_DISABLE_PROGRESS_BARS="1", **({"HF_TOKEN": token} if token else {})
        )
        return {**env, **more}

    def add(
        self,
        repo_id: str,
        files: Path | Mapping[str, bytes],
        revision: str = "main",
        private: bool = False,
        gated: bool = False,
    ) -> str:
        """Serves a folder (or path -> bytes) as a new commit of ``repo_id``, named ``revision``; returns the commit."""
        if isinstance(files, Path):
            paths = (path for path in sorted(files.rglob("*")) if path.is_file())
            files = {path.relative_to(files).as_posix(): path.read_bytes() for path in paths}
        repo = self.repos.setdefault(repo_id, Repo())
        repo.private, repo.gated = private, gated
        return repo.commit(files, revision)

    def fail(self, kind: int | str, file: str | None = None, times: int | None = None) -> None:
        """Injects a fault.

        Args:
            kind: A status (401, 403, 404, 429, 500, 503), or of a download: ``"cut"`` (the connection ends half way,
                and immediately whenever it is resumed), ``"wrong length"`` (the body is not as long as HEAD stated),
                ``"truncated"`` (all lengths agree on half of the file), ``"garbage"`` (right length, other bytes).
            file: Only for this file of a repository; None for every request.
            times: How often; None for always, until ``heal``.
        """
        self.faults.append((kind, file, times))

    def heal(self) -> None:
        """Removes all faults."""
        self.faults.clear()

    def fault_for(self, method: str, path: str) -> int | str | None:
        for index, (kind, file, times) in enumerate(self.faults):
            if file is not None and not path.endswith(f"/{file}"):
                continue
            if isinstance(kind, str) and kind != "truncated" and method != "GET":
                continue
            if times is not None:
                self.faults[index] = (kind, file, times - 1)
                if times <= 0:
                    continue
            return kind
        return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: LoopbackHub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.requests.append((self.command, path))
        fault = self.hub.fault_for(self.command, path)
        if isinstance(fault, int):
            self._error(fault, *_MESSAGES[fault])
        elif match := _RESOLVE.fullmatch(path):
            self._resolve(*match.groups(), fault)
        else:
            self._api(path, body)

    @property
    def _authorized(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _repo(self, repo_id: str, revision: str | None) -> tuple[Repo, str] | None:
        repo = self.hub.repos.get(repo_id)
        if self.headers.get("Authorization") and not self._authorized:
            self._error(401, None, "Invalid credentials in Authorization header")
        elif repo is None or (repo.private and not self._authorized):
            self._error(404, "RepoNotFound", "Repository not found") if self._authorized else self._error(
                401, "RepoNotFound", "Invalid username or password."
            )
        elif repo.gated and not self._authorized:
            self._error(403, "GatedRepo", f"Access to model {repo_id} is restricted")
        else:
            commit = repo.refs.get(revision or "main", revision)
            if commit in repo.commits or not repo.commits:
                return repo, commit or ""
            self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return None

    def _resolve(self, repo_id: str, revision: str, name: str, fault: str | None) -> None:
        if (found := self._repo(repo_id, revision)) is None:
            return
        repo, commit = found
        data = repo.commits[commit].get(name)
        if data is None:
            self._error(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit})
            return
        digest = hashlib.sha256(data).hexdigest()
        if fault == "truncated":
            data = data[: len(data) // 2]
        elif fault == "wrong length":
            data = data[:-10]
        elif fault == "garbage":
            data = bytes(byte ^ 255 for byte in data[:64]) + data[64:]
        headers = {"X-Repo-Commit": commit, "ETag": f'"{digest}"', "Accept-Ranges": "bytes"}
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(asked[1]) if asked and fault != "wrong length" else 0
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        if fault == "cut":
            self._send(206 if start else 200, data[start:], headers, sent=0 if start else len(data) // 2)
            self.close_connection = True
        else:
            self._send(206 if start else 200, data[start:], headers)

    def _api(self, path: str, body: bytes) -> None:
        if path == "/api/whoami-v2":
            if self._authorized:
                self._json(
                    {"type": "user", "name": "tester", "orgs": [{"name": "org"}], "auth": {"type": "access_token"}}
                )
            else:
                self._error(401, None, "Invalid credentials in Authorization header")
        elif path == "/api/validate-yaml":
            errors = [{"message": message} for message in self.hub.card_errors]
            self._json({"errors": errors, "warnings": []}, 400 if errors else 200)
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif match := _API.fullmatch(path):
            repo_id, what, revision = match.groups()
            if what in ("preupload", "commit", "branch"):
                self._write(repo_id, what, revision, body)
            elif (found := self._repo(repo_id, revision)) is not None:
                self._describe(repo_id, what, *found)
        else:
            self._error(404, None, f"no route {path}")

    def _create(self, wanted: dict) -> None:
        repo_id = f"{wanted.get('organization') or 'tester'}/{wanted['name']}"
        if wanted.get("type") == "space":
            assert wanted["sdk"] == "gradio"
            repo_id = f"spaces/{repo_id}"
        if not self._authorized:
            self._error(401, None, "Invalid credentials in Authorization header")
        elif repo_id in self.hub.repos:
            self._json({"url": f"{self.hub.url}/{repo_id}"}, 409)
        else:
            self.hub.repos[repo_id] = Repo(private=bool(wanted.get("private") or wanted.get("visibility") == "private"))
            self.hub.repos[repo_id].commit({".gitattributes": b""}, "main")
            self._json({"url": f"{self.hub.url}/{repo_id}"})

    def _describe(self, repo_id: str, what: str | None, repo: Repo, commit: str) -> None:
        files = repo.commits.get(commit, {})
        if what == "tree":
            self._json(
                [
                    {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                    for name, data in files.items()
                ]
            )
        else:
            siblings = [{"rfilename": name} for name in files]
            self._json(
                {"id": repo_id, "modelId": repo_id, "sha": commit, "private": repo.private, "siblings": siblings}
            )

    def _write(self, repo_id: str, what: str, revision: str, body: bytes) -> None:
        if not self._authorized:
            self._error(401, None, "Invalid credentials in Authorization header")
            return
        repo = self.hub.repos.get(repo_id)
        if repo is None:
            self._error(404, "RepoNotFound", "Repository not found")
        elif what == "branch":
            known = revision in repo.refs
            repo.refs.setdefault(revision, repo.refs["main"])
            self._json({}, 409 if known else 200)
        elif revision not in repo.refs:
            self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        elif what == "preupload":
            names = [entry["path"] for entry in json.loads(body)["files"]]
            self._json({"files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]})
        else:
            files = dict(repo.commits[repo.refs[revision]])
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                elif line["key"] == "deletedFile":
                    files.pop(line["value"]["path"])
            commit = repo.commit(files, revision)
            url = f"{self.hub.url}/{repo_id}/commit/{commit}"
            self._json({"success": True, "commitOid": commit, "commitUrl": url})

    def _json(self, value: object, status: int = 200) -> None:
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _error(self, status: int, code: str | None, message: str, headers: Mapping[str, str] | None = None) -> None:
        more = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {}), **(headers or {})}
        self._send(status, json.dumps({"error": message}).encode(), more)

    def _send(self, status: int, data: bytes, headers: Mapping[str, str], sent: int | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data if sent is None else data[:sent])
