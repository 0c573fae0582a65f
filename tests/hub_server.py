"""A small Hub on this computer: repositories, tokens, commits and large files, by the routes that its client uses."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import yaml

__all__ = ["FakeHub", "Repository", "hub_at"]

OWNER_OF = {"hf_mine": "me", "hf_other": "other"}


@dataclass
class Repository:
    """Commits of files by branch; `history` keeps the files of every commit."""

    private: bool = False
    branches: dict[str, str] = field(default_factory=dict)
    history: dict[str, dict[str, bytes]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, branch: str, files: dict[str, bytes], message: str = "") -> str:
        """Put a state of all files on a branch; its hash."""
        oid = hashlib.sha1(repr((len(self.history), sorted(files))).encode()).hexdigest()
        self.history[oid], self.branches[branch] = dict(files), oid
        self.messages.append(message)
        return oid

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """The files of a branch or commit."""
        return self.history[self.branches.get(revision, revision)]


@dataclass
class FakeHub:
    """What the Hub holds, what it was asked, and what it answers instead of doing its work."""

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    refuse: dict[str, int] = field(default_factory=dict)  # route → code

    def repository(self, name: str, *, private: bool = False, files: dict[str, bytes] | None = None) -> Repository:
        """A repository that was there before."""
        made = self.repositories[name] = Repository(private)
        made.commit("main", files or {".gitattributes": b""})
        return made


class _Refused(Exception):
    def __init__(self, code: int, reason: str = "", error: str = "") -> None:
        self.code, self.reason, self.error = code, reason, error


def _handler(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _any(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(size)
            if self.headers.get("Transfer-Encoding") == "chunked":
                while length := int(self.rfile.readline(), 16):
                    body += self.rfile.read(length)
                    self.rfile.readline()
                self.rfile.readline()
            path = self.path.partition("?")[0]
            hub.asked.append(f"{self.command} {path}")
            token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
            try:
                code = next((code for route, code in hub.refuse.items() if route in path), 0)
                if code:
                    raise _Refused(code, "refused")
                data, headers = _answer(hub, self.command, path, body, OWNER_OF.get(token, ""))
                self._send(200, data, headers)
            except _Refused as refused:
                headers = {"X-Error-Message": refused.reason, "X-Error-Code": refused.error}
                self._send(refused.code, b'{"error": "no"}', {k: v for k, v in headers.items() if v})

        do_GET = do_HEAD = do_POST = do_PUT = _any  # noqa: N815

        def _send(self, code: int, data: bytes, headers: dict[str, str]) -> None:
            self.send_response(code)
            for name, value in {"Content-Length": str(len(data)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    return Handler


def _found(hub: FakeHub, name: str, owner: str) -> Repository:
    repository = hub.repositories.get(name)
    if repository is None or (repository.private and owner != name.partition("/")[0]):
        raise _Refused(404 if owner else 401, "Repository not found", "RepoNotFound")
    return repository


def _answer(hub: FakeHub, method: str, path: str, body: bytes, owner: str) -> tuple[bytes, dict[str, str]]:
    """The answer to a request, bytes and headers."""
    if path == "/":
        return b"", {}
    if path.startswith("/blobs/"):
        assert hashlib.sha256(body).hexdigest() == path.rpartition("/")[2]
        hub.blobs[path.rpartition("/")[2]] = body
        return b"", {}
    if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
        return _resolved(_found(hub, found[1], owner), found[2], found[3])
    if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", path):
        return json.dumps(_info(_found(hub, found[1], owner), found[1], found[2] or "main")).encode(), {}
    if not owner:
        raise _Refused(401, "Invalid username or password.")
    return json.dumps(_written(hub, path, body, owner)).encode(), {}


def _resolved(repository: Repository, revision: str, file: str) -> tuple[bytes, dict[str, str]]:
    oid = repository.branches.get(revision, revision)
    if oid not in repository.history:
        raise _Refused(404, "Revision not found", "RevisionNotFound")
    data = repository.history[oid].get(file)
    if data is None:
        raise _Refused(404, "Entry not found", "EntryNotFound")
    return data, {"X-Repo-Commit": oid, "ETag": f'"{hashlib.sha1(data).hexdigest()}"'}


def _info(repository: Repository, name: str, revision: str) -> dict[str, Any]:
    oid = repository.branches.get(revision, revision)
    if oid not in repository.history:
        raise _Refused(404, "Revision not found", "RevisionNotFound")
    siblings = [{"rfilename": file} for file in sorted(repository.history[oid])]
    return {"id": name, "sha": oid, "private": repository.private, "siblings": siblings, "tags": [], "downloads": 0}


def _written(hub: FakeHub, path: str, body: bytes, owner: str) -> Any:
    """What a request that changes something, or prepares a change, is answered."""
    if path == "/api/repos/create":
        asked = json.loads(body)
        place = f"{asked.get('organization') or owner}/{asked['name']}"
        if place.partition("/")[0] != owner:
            raise _Refused(403, "You don't have the rights to create a model under the namespace")
        if place in hub.repositories:
            raise _Refused(409, "You already created this model repo")
        hub.repository(place, private=bool(asked.get("private")) or asked.get("visibility") == "private")
        return {"url": f"{hub.url}/{place}"}
    if path == "/api/validate-yaml":
        facts = yaml.safe_load(json.loads(body)["content"].split("---\n")[1])
        assert facts["model-index"][0]["results"][0]["metrics"][0]["type"] == "accuracy"
        return {"errors": [], "warnings": []}
    if found := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
        wanted = json.loads(body)["objects"]
        return {
            "objects": [{**one, "actions": {"upload": {"href": f"{hub.url}/blobs/{one['oid']}"}}} for one in wanted]
        }
    found = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit|branch)/([^/]+)", path)
    assert found, path
    name, verb, branch = found[1], found[2], found[3]
    repository = _found(hub, name, owner)
    if name.partition("/")[0] != owner:
        raise _Refused(403, "Forbidden")
    if verb == "preupload":
        modes = [(one["path"], "lfs" if one["path"].endswith((".safetensors", ".onnx")) else "regular")
                 for one in json.loads(body)["files"]]  # fmt: skip
        return {"files": [{"path": name, "uploadMode": mode, "shouldIgnore": False} for name, mode in modes]}
    if verb == "branch":
        repository.branches.setdefault(branch, repository.branches["main"])
        return {}
    return _committed(hub, repository, name, branch, body)


def _committed(hub: FakeHub, repository: Repository, name: str, branch: str, body: bytes) -> Any:
    files, message = dict(repository.files(branch)), ""
    for line in map(json.loads, body.splitlines()):
        value = line["value"]
        if line["key"] == "header":
            message = value["summary"]
        elif line["key"] == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif line["key"] == "lfsFile":
            files[value["path"]] = hub.blobs[value["oid"]]
        else:
            assert line["key"] == "deletedFile"
            del files[value["path"]]
    oid = repository.commit(branch, files, message)
    return {"commitUrl": f"{hub.url}/{name}/commit/{oid}", "commitOid": oid, "success": True}


@contextmanager
def hub_at(cache: Any, *, token: str | None = "hf_mine") -> Iterator[FakeHub]:
    """A fake Hub that the client of this process speaks to, with a cache of its own and a token."""
    hub = FakeHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    constants = "huggingface_hub.constants"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"{constants}.ENDPOINT", hub.url)
        patch.setattr(f"{constants}.HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
        patch.setattr(f"{constants}.HF_HUB_OFFLINE", False)
        patch.setattr(f"{constants}.HF_HUB_CACHE", str(cache))
        patch.setattr(f"{constants}.HF_TOKEN_PATH", str(cache) + "-no-token")
        patch.setattr(f"{constants}.HF_STORED_TOKENS_PATH", str(cache) + "-no-tokens")
        patch.setattr(f"{constants}.HF_HUB_DISABLE_XET", True)  # its storage is another server's
        patch.setenv("HF_TOKEN", token) if token else patch.delenv("HF_TOKEN", raising=False)
        try:
            yield hub
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
