"""A server with the part of the Hugging Face Hub's API that fsspec's `hf://` uses, for one repository of a folder."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

REPOSITORY = "team/base"


class Hub:
    """`commits`: folder by commit. `main`: the commit that the branch names. `asked`: revisions of files, as asked.

    `tells`: whether it says which commit a branch names, which not each mirror does.
    """

    def __init__(self) -> None:
        self.commits: dict[str, Path] = {}
        self.main = ""
        self.asked: list[str] = []
        self.endpoint = ""
        self.tells = True

    def commit_of(self, revision: str) -> str | None:
        """The commit that a revision names; None if there is none."""
        commit = self.main if revision == "main" else revision
        return commit if commit in self.commits else None


@contextmanager
def hub() -> Iterator[Hub]:
    """A hub that runs during the block."""
    state = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            """Nothing."""

        def do_HEAD(self) -> None:
            self._file()

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            if found := re.fullmatch(rf"/api/models/{REPOSITORY}(?:/revision/([^/]+))?", path):
                commit = state.commit_of(found[1] or "main")
                self._json(
                    {"id": REPOSITORY, "siblings": []} | ({"sha": commit} if state.tells else {}) if commit else None
                )
            elif found := re.fullmatch(rf"/api/models/{REPOSITORY}/tree/([^/]+)(?:/(.*))?", path):
                self._tree(found[1])
            else:
                self._file()

        def do_POST(self) -> None:
            path = unquote(urlsplit(self.path).path)
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            found = re.fullmatch(rf"/api/models/{REPOSITORY}/paths-info/([^/]+)", path)
            wanted = json.loads(body)["paths"] if body[:1] == b"{" else parse_qs(body.decode()).get("paths", [])
            self._json([entry for entry in self._entries(found[1]) if entry["path"] in wanted] if found else None)

        def _entries(self, revision: str) -> list[dict[str, Any]]:
            commit = state.commit_of(revision)
            state.asked.append(revision)
            files = sorted(state.commits[commit].iterdir()) if commit else []
            return [{"type": "file", "path": p.name, "size": p.stat().st_size, "oid": p.name} for p in files]

        def _tree(self, revision: str) -> None:
            self._json(self._entries(revision) if state.commit_of(revision) else None)

        def _file(self) -> None:
            path = unquote(urlsplit(self.path).path)
            found = re.fullmatch(rf"/{REPOSITORY}/resolve/([^/]+)/(.+)", path)
            commit = state.commit_of(found[1]) if found else None
            file = state.commits[commit] / found[2] if found and commit else None
            if file is None or not file.is_file() or found is None:
                self._json(None)
                return
            state.asked.append(found[1])
            content, status = file.read_bytes(), HTTPStatus.OK
            size = len(content)
            headers = {"X-Repo-Commit": commit or "", "ETag": f'"{commit}-{file.name}"', "Accept-Ranges": "bytes"}
            if part := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
                first, last = int(part[1]), min(int(part[2] or size - 1), size - 1)
                content, status = content[first : last + 1], HTTPStatus.PARTIAL_CONTENT
                headers["Content-Range"] = f"bytes {first}-{last}/{size}"
            self._answer(status, content, headers)

        def _json(self, content: Any) -> None:
            status = HTTPStatus.NOT_FOUND if content is None else HTTPStatus.OK
            code = {"X-Error-Code": "RevisionNotFound"} if content is None else {}
            self._answer(status, json.dumps(content).encode(), {"Content-Type": "application/json"} | code)

        def _answer(self, status: HTTPStatus, content: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(content))}).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        state.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield state
        finally:
            server.shutdown()
