"""A Hugging Face hub on this machine: what huggingface_hub 1 and 2 ask of one to describe repositories and download files."""

from __future__ import annotations

import hashlib
import io
import json
import re
import threading
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

import pyarrow
import pyarrow.parquet

#: Large files on a hub are known by their SHA-256, the others by git's SHA-1.
LARGE = (".safetensors", ".parquet", ".bin")


def git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


#: A data set's README that says which files are which split.
_CARD = b"""---
configs:
- config_name: main
  data_files:
  - {split: train, path: main/train-*}
  - {split: test, path: main/test-*}
---
"""


def gsm8k(*, train: int = 96) -> dict[str, bytes]:
    """The files of a data set in GSM8K's form: ``train`` rows, and 8 in the test split."""

    def parquet(rows: int) -> bytes:
        stream = io.BytesIO()
        records = [{"question": f"{row} + 1?", "answer": f"{row} + 1 = {row + 1}\n#### {row + 1}"} for row in range(rows)]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), stream)
        return stream.getvalue()

    return {"README.md": _CARD, "main/train-0.parquet": parquet(train), "main/test-0.parquet": parquet(8)}


@dataclass
class FakeHub:
    """Repositories by ``models/NAME`` and ``datasets/NAME``."""

    #: Repository -> commit -> path -> content.
    commits: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    #: Repository -> branch -> commit.
    branches: dict[str, dict[str, str]] = field(default_factory=dict)
    #: "GET /path" of every request, in order.
    asked: list[str] = field(default_factory=list)
    #: Path in a repository -> what is sent in its place, so many times.
    broken: dict[str, list[bytes]] = field(default_factory=dict)

    def push(self, repository: str, files: Mapping[str, bytes], *, branch: str = "main") -> str:
        """A new commit on a branch. Returns its hash."""
        text = repository + "".join(f"{path} {sha256(content)}\n" for path, content in sorted(files.items()))
        commit = hashlib.sha1(text.encode()).hexdigest()
        self.commits.setdefault(repository, {})[commit] = dict(files)
        self.branches.setdefault(repository, {})[branch] = commit
        return commit

    def find(self, repository: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """The commit of a revision and its files."""
        commit = self.branches.get(repository, {}).get(revision, revision)
        files = self.commits.get(repository, {}).get(commit)
        return None if files is None else (commit, files)

    def __enter__(self) -> FakeHub:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                answer(hub, self, body=True)

            def do_HEAD(self) -> None:
                answer(hub, self, body=False)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Answer nobody from now on."""
        self.server.shutdown()
        self.server.server_close()


def answer(hub: FakeHub, request: BaseHTTPRequestHandler, *, body: bool) -> None:
    """Send what the hub has at the request's address."""
    path = urllib.parse.unquote(urllib.parse.urlsplit(request.path).path)
    hub.asked.append(f"{request.command} {path}")
    if path.startswith("/api/"):
        asked = re.fullmatch(r"/api/((?:models|datasets)/[^/]+/[^/]+)/(revision|tree)/([^/]+)", path)
        found = None if asked is None else hub.find(asked[1], asked[3])
        if asked is None or found is None:
            return send(request, b"", body, status=404, headers={"X-Error-Code": "RepoNotFound" if asked else "EntryNotFound"})
        entries = [described(path, content, tree=asked[2] == "tree") for path, content in sorted(found[1].items())]
        content = entries if asked[2] == "tree" else {"id": asked[1].partition("/")[2], "sha": found[0], "siblings": entries}
        return send(request, json.dumps(content).encode(), body, headers={"Content-Type": "application/json"})
    place, _, rest = path.strip("/").partition("/resolve/")
    revision, _, file = rest.partition("/")
    repository = place if place.startswith("datasets/") else f"models/{place}"
    found = hub.find(repository, revision)
    if found is None:
        return send(request, b"", body, status=404, headers={"X-Error-Code": "RevisionNotFound"})
    if file not in found[1]:
        headers = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": found[0]}
        return send(request, b"", body, status=404, headers=headers)
    content = found[1][file]
    etag = sha256(content) if file.endswith(LARGE) else git_sha1(content)
    if body and hub.broken.get(file):
        content = hub.broken[file].pop(0)
    send(request, content, body, headers={"X-Repo-Commit": found[0], "ETag": f'"{etag}"'})


def described(path: str, content: bytes, *, tree: bool) -> dict[str, object]:
    """A file as the listing of a repository has it, or its tree."""
    size, large = len(content), path.endswith(LARGE)
    if tree:
        lfs = {"lfs": {"oid": sha256(content), "size": size, "pointerSize": 134}} if large else {}
        return {"type": "file", "path": path, "size": size, "oid": git_sha1(content), **lfs}
    lfs = {"lfs": {"sha256": sha256(content), "size": size, "pointerSize": 134}} if large else {}
    return {"rfilename": path, "size": size, "blobId": git_sha1(content), **lfs}


def send(request: BaseHTTPRequestHandler, content: bytes, body: bool, *, status: int = 200, headers: Mapping[str, str]) -> None:
    request.send_response(status)
    for name, value in headers.items():
        request.send_header(name, value)
    request.send_header("Content-Length", str(len(content)))
    request.end_headers()
    if body:
        request.wfile.write(content)
