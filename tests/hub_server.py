"""A stand-in for the hub: a server on this machine that its own client talks to, with repositories in memory."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar


class Hub:
    """Repositories of models: for each a list of (commit, files), the newest last, and what requests were made.

    Args:
        url: where it answers.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.commits: dict[str, list[tuple[str, dict[str, bytes]]]] = {}
        self.created: list[dict[str, Any]] = []
        self.tokens: set[str | None] = set()

    def commit(self, name: str, files: dict[str, bytes]) -> str:
        """Add files to what was there."""
        history = self.commits.setdefault(name, [])
        content = {**(history[-1][1] if history else {}), **files}
        commit = hashlib.sha1(f"{name} {len(history)}".encode()).hexdigest()
        history.append((commit, content))
        return commit

    def at(self, name: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """The commit that a revision means, and its files."""
        history = self.commits.get(name, [])
        if revision == "main" and history:
            return history[-1]
        return next((one for one in history if one[0] == revision), None)


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub that answers within the block."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {}))
    hub = Hub(f"http://127.0.0.1:{server.server_address[1]}")
    server.RequestHandlerClass.hub = hub  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: ClassVar[Hub]

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._file()

    def do_GET(self) -> None:
        parts = self.path.partition("?")[0].strip("/").split("/")
        if parts[:2] != ["api", "models"]:
            return self._file()
        name, revision = "/".join(parts[2:4]), parts[5] if len(parts) > 5 else "main"
        if name not in self.hub.commits:
            return self._error(404, "RepoNotFound")
        found = self.hub.at(name, revision)
        if found is None:
            return self._error(404, "RevisionNotFound")
        commit, files = found
        if len(parts) > 4 and parts[4] == "tree":
            return self._json([{"type": "file", "path": path, "size": len(files[path]), "oid": "0"} for path in files])
        siblings = [{"rfilename": path, "size": len(content)} for path, content in files.items()]
        return self._json({"id": name, "modelId": name, "sha": commit, "siblings": siblings, "tags": []})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = self.path.partition("?")[0].strip("/").split("/")
        self.hub.tokens.add(self.headers.get("Authorization"))
        if parts[:3] == ["api", "repos", "create"]:
            asked = json.loads(body)
            name = f"{asked.get('organization', 'me')}/{asked['name']}"
            self.hub.created.append(asked)
            self.hub.commits.setdefault(name, [])
            return self._json({"url": f"{self.hub.url}/{name}", "name": name})
        if parts[:2] == ["api", "validate-yaml"]:
            return self._json({"errors": [], "warnings": []})
        name = "/".join(parts[2:4])
        if parts[4] == "preupload":
            asked = json.loads(body)["files"]
            modes = [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in asked]
            return self._json({"files": modes})
        lines = [json.loads(line) for line in body.splitlines()]
        files = {
            line["value"]["path"]: base64.b64decode(line["value"]["content"]) for line in lines if line["key"] == "file"
        }
        commit = self.hub.commit(name, files)
        return self._json({"commitUrl": f"{self.hub.url}/{name}/commit/{commit}", "commitOid": commit})

    def _file(self) -> None:
        """/user/name/resolve/revision/file"""
        parts = self.path.partition("?")[0].strip("/").split("/")
        name, revision, path = "/".join(parts[:2]), parts[3], "/".join(parts[4:])
        found = self.hub.at(name, revision)
        if found is None:
            return self._error(404, "RepoNotFound" if name not in self.hub.commits else "RevisionNotFound")
        commit, files = found
        if path not in files:
            return self._error(404, "EntryNotFound")
        self.send_response(200)
        self.send_header("X-Repo-Commit", commit)
        self.send_header("ETag", f'"{hashlib.sha1(files[path]).hexdigest()}"')
        self.send_header("Content-Length", str(len(files[path])))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(files[path])

    def _json(self, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _error(self, code: int, name: str) -> None:
        self.send_response(code)
        self.send_header("X-Error-Code", name)
        self.send_header("Content-Length", "0")
        self.end_headers()
