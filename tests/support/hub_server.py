"""A server that speaks as much of the Hub's protocol as huggingface_hub 2.4 uses to make, fill, list and read a
repository.

It is written after the calls of that library, not after the Hub's own code: what the Hub does besides is not in it.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass
class Repository:
    """A repository.

    Args:
        private: whether it is.
        branches: the hash of the last commit of each.
        commits: the files of each, by their names.
    """

    private: bool
    branches: dict[str, str]
    commits: dict[str, dict[str, bytes]]

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        """Make a commit; returns its hash."""
        digest = hashlib.sha1(f"{branch}{len(self.commits)}{sorted(files)}".encode()).hexdigest()
        self.commits[digest] = files
        self.branches[branch] = digest
        return digest

    def resolved(self, revision: str) -> str | None:
        """The hash of a branch's last commit, or of a commit."""
        return self.branches.get(revision) or (revision if revision in self.commits else None)


@dataclass
class HubServer:
    """The server, on a port of its own of this machine.

    Args:
        lfs: whether `.safetensors` are LFS's, as on the Hub; else all files are regular ones.
        token: that requests must have; None lets all in.
        faults: what becomes of a file's download, by its name: `short`, its last byte is absent; `altered`, one byte is
            another; `endless`, without a length or an end; `to:URL`, a redirect.
        refused: the status that a call is answered with, by the beginning of `METHOD PATH`.
        said: the words of such an answer.
        listed: what the list of a repository's files holds besides, as the protocol has them.
        sizes: what the list says of a file's size, by its name.
        sha: what a repository says of its last commit, in place of its hash.
        asked: `METHOD PATH` and Authorization of each request.
    """

    lfs: bool = False
    token: str | None = None
    faults: dict[str, str] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    said: str = "no"
    listed: list[dict[str, Any]] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    sha: str | None = None
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    repositories: dict[str, Repository] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)
    url: str = ""

    def files(self, repo: str, branch: str = "main") -> dict[str, bytes]:
        """The files of a branch's last commit, to be altered."""
        found = self.repositories[repo]
        return found.commits[found.branches[branch]]

    def calls(self) -> list[str]:
        """`METHOD PATH` of each request."""
        return [call for call, _ in self.asked]

    def create(self, repo: str, private: bool = False) -> Repository:
        """Make a repository, with the file that the Hub puts into each."""
        made = self.repositories[repo] = Repository(private, {}, {})
        made.commit("main", {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"})
        return made


@contextmanager
def serving(server: HubServer) -> Iterator[HubServer]:
    """Let a server answer while the block lasts."""

    class Handler(_Handler):
        hub = server

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    server.url = f"http://127.0.0.1:{http.server_port}"
    thread = Thread(target=http.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        path = unquote(urlsplit(self.path).path)
        call = f"{self.command} {path}"
        self.hub.asked.append((call, self.headers["Authorization"]))
        for beginning, status in self.hub.refused.items():
            if call.startswith(beginning):
                return self._send(status, {"error": self.hub.said})
        if path.startswith("/stored/"):
            return self._stored(path.removeprefix("/stored/"), body)
        if self.hub.token is not None and self.headers["Authorization"] != f"Bearer {self.hub.token}":
            return self._send(401, {"error": "Invalid username or password."})
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path == "/api/validate-yaml":
            return self._send(200, {"errors": [], "warnings": []})
        if path.endswith(".git/info/lfs/objects/batch"):
            return self._batch(json.loads(body))
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"] and len(parts) >= 4:
            return self._of_repository("/".join(parts[2:4]), parts[4:], body)
        if len(parts) >= 5 and parts[2] == "resolve":
            return self._resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        return self._send(404, {"error": "Not Found"})

    def _send(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        given = {"Content-Length": str(len(body))} | (headers or {})
        if status >= 400 and not isinstance(content, bytes):
            given["X-Error-Message"] = content["error"]
        for name, value in given.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _create(self, asked: dict[str, Any]) -> None:
        repo = f"{asked['organization'] or 'me'}/{asked['name']}"
        url = {"url": f"{self.hub.url}/{repo}"}
        if repo in self.hub.repositories:
            return self._send(409, {**url, "error": "You already created this model repo"})
        self.hub.create(repo, asked.get("visibility") == "private" or bool(asked.get("private")))
        return self._send(200, url)

    def _of_repository(self, repo: str, rest: list[str], body: bytes) -> None:
        found = self.hub.repositories.get(repo)
        if found is None:
            return self._missing("RepoNotFound", "Repository not found")
        action, revision = (rest + ["revision", "main"][len(rest) :])[:2]
        if action == "branch":
            if revision in found.branches:
                return self._send(409, {"error": "Reference already exists"})
            found.branches[revision] = found.branches["main"]
            return self._send(200, {})
        commit = found.resolved(revision)
        if commit is None:
            return self._missing("RevisionNotFound", f"Invalid rev id: {revision}")
        files = found.commits[commit]
        if action == "revision":
            about = {"id": repo, "sha": self.hub.sha or commit, "private": found.private, "siblings": [], "tags": []}
            return self._send(200, about)
        if action == "tree":
            return self._send(200, [self._entry(name, content) for name, content in files.items()] + self.hub.listed)
        if action == "preupload":
            asked = json.loads(body)["files"]
            modes = [self._mode(one["path"], files) | {"path": one["path"], "shouldIgnore": False} for one in asked]
            return self._send(200, {"files": modes})
        if action == "commit":
            return self._commit(repo, found, revision, dict(files), body)
        return self._send(404, {"error": "Not Found"})

    def _missing(self, code: str, words: str) -> None:
        self._send(404, {"error": words}, {"X-Error-Code": code})

    def _is_lfs(self, name: str) -> bool:
        return self.hub.lfs and name.endswith(".safetensors")

    def _mode(self, name: str, files: dict[str, bytes]) -> dict[str, Any]:
        known = {"oid": self._oid(name, files[name])} if name in files else {}
        return {"uploadMode": "lfs" if self._is_lfs(name) else "regular"} | known

    def _oid(self, name: str, content: bytes) -> str:
        if self._is_lfs(name):
            return hashlib.sha256(content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    def _entry(self, name: str, content: bytes) -> dict[str, Any]:
        size = self.hub.sizes.get(name, len(content))
        entry = {"type": "file", "path": name, "size": size, "oid": self._oid(name, content)}
        if self._is_lfs(name):
            digest = hashlib.sha256(content).hexdigest()
            entry |= {"oid": "0" * 40, "lfs": {"oid": digest, "size": size, "pointerSize": 134}}
        return entry

    def _commit(self, repo: str, found: Repository, branch: str, files: dict[str, bytes], body: bytes) -> None:
        for line in body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                files[value["path"]] = self.hub.stored[value["oid"]]
            elif item["key"] == "deletedFile":
                del files[value["path"]]
        commit = found.commit(branch, files)
        self._send(200, {"commitUrl": f"{self.hub.url}/{repo}/commit/{commit}", "commitOid": commit})

    def _batch(self, asked: dict[str, Any]) -> None:
        objects = [
            {**one, "actions": {"upload": {"href": f"{self.hub.url}/stored/{one['oid']}"}}} for one in asked["objects"]
        ]
        self._send(200, {"transfer": "basic", "objects": objects})

    def _stored(self, digest: str, body: bytes) -> None:
        """The place to which LFS's files go and from which they come, which asks for no token."""
        if self.command == "PUT":
            self.hub.stored[digest] = body
            return self._send(200, {})
        return self._send(200, self.hub.stored[digest])

    def _resolve(self, repo: str, revision: str, name: str) -> None:
        found = self.hub.repositories.get(repo)
        commit = found and found.resolved(revision)
        if not found or not commit or name not in found.commits[commit]:
            return self._missing("EntryNotFound", "Entry not found")
        content, fault = found.commits[commit][name], self.hub.faults.get(name, "")
        headers = {"X-Repo-Commit": commit, "ETag": f'"{self._oid(name, content)}"'}
        if fault.startswith("to:"):
            linked = {"X-Linked-Size": str(len(content)), "X-Linked-Etag": headers["ETag"]}
            return self._send(302, b"", headers | linked | {"Location": fault.removeprefix("to:")})
        if fault == "endless":
            return self._endless(headers)
        if fault == "altered":
            content = content[:-1] + bytes([content[-1] ^ 1])
        if fault == "short" and self.command == "GET":
            content = content[:-1]
        return self._send(200, content, headers)

    def _endless(self, headers: dict[str, str]) -> None:
        self.send_response(200)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        if self.command != "HEAD":
            try:
                while True:
                    self.wfile.write(bytes(1 << 20))
            except OSError:
                pass  # Whoever asked has seen enough.
