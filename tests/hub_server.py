"""The far end of the Hugging Face hub, in memory: what huggingface_hub asks for to push a model and to read it back.

The client in these tests is the real one; only the address that it is given is this server's. It speaks repositories,
commits, tags, large files (Git LFS, basic transfer) and private repositories as the hub does, status codes and headers
included. It does not speak Xet, the hub's newer way to carry large files: HF_HUB_DISABLE_XET=1 keeps to LFS.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

LARGE = (".safetensors", ".bin")  # what .gitattributes of the hub sends to LFS, as far as models need it
Files = dict[str, bytes]


@dataclass
class Repository:
    """Commits by their hash, oldest first, and what names point to them."""

    owner: str
    private: bool = False
    commits: dict[str, Files] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, files: Files, message: str) -> str:
        """Put a new commit on main and give its hash."""
        listing = sorted((path, git_oid(path, data)) for path, data in files.items())
        parent = self.refs.get("main", "")
        sha = hashlib.sha1(json.dumps([parent, listing, message]).encode()).hexdigest()
        self.commits[sha] = files
        self.refs["main"] = sha
        return sha


@dataclass
class Hub:
    """All that the server knows: users by their tokens, repositories by their names, and each request it got."""

    tokens: dict[str, str]
    endpoint: str = ""
    storage: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)

    def put(self, name: str, files: Files, *, private: bool = False) -> str:
        """Make a repository with these files, whoever wrote them; give the hash of its commit."""
        repository = self.repositories[name] = Repository(name.split("/")[0], private=private)
        self.objects |= {sha256(data): data for path, data in files.items() if is_large(path)}
        return repository.commit(files, "put")

    def files(self, name: str, revision: str = "main") -> Files:
        """What a repository holds."""
        repository = self.repositories[name]
        return repository.commits[repository.refs.get(revision, revision)]


@contextmanager
def serve(tokens: dict[str, str]) -> Iterator[Hub]:
    """Run a hub on a free port of this machine, with users by their tokens, until the block ends."""
    hub = Hub(tokens)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    hub.storage = f"http://localhost:{server.server_port}/objects"  # large files lie on a host of their own
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def is_large(path: str) -> bool:
    return path.endswith(LARGE)


def pointer(data: bytes) -> bytes:
    """What Git keeps in place of a large file."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256(data)}\nsize {len(data)}\n".encode()


def git_oid(path: str, data: bytes) -> str:
    """The name that Git gives to a file's content."""
    data = pointer(data) if is_large(path) else data
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class _Refused(Exception):
    """An answer other than 200, with the headers by which the client tells one from another."""

    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """The hub keeps its own list."""

    def handle_one_way(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            for method, pattern, action in _ROUTES:
                found = re.fullmatch(pattern, path)
                if self.command in method.split() and found:
                    action(self, **found.groupdict())
                    return
            raise _Refused(404, message=f"no such address: {path}")
        except _Refused as refused:
            headers = {"X-Error-Code": refused.code, "X-Error-Message": refused.message}
            self.answer({"error": refused.message}, refused.status, {k: v for k, v in headers.items() if v})

    do_GET = do_HEAD = do_POST = do_PUT = handle_one_way

    def answer(self, content: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        """Send bytes as they are and anything else as JSON."""
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def user(self) -> str | None:
        """Who asks; a token that nobody has is refused, as the hub does."""
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in self.hub.tokens:
            raise _Refused(401, message="Invalid credentials in Authorization header")
        return self.hub.tokens.get(token)

    def readable(self, repo: str) -> Repository:
        """A repository that the asker may see. The hub does not tell a private one from one that is not there."""
        user, repository = self.user(), self.hub.repositories.get(repo)
        if repository is None or (repository.private and user != repository.owner):
            raise _Refused(404 if user else 401, "RepoNotFound", "Repository not found")
        return repository

    def writable(self, repo: str) -> Repository:
        repository = self.readable(repo)
        if self.user() != repository.owner:
            raise _Refused(403, message=f"You don't have the rights to write to {repo}")
        return repository

    def commit_of(self, repo: str, revision: str) -> tuple[str, Files]:
        repository = self.readable(repo)
        sha = repository.refs.get(revision, revision)
        if sha not in repository.commits:
            raise _Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return sha, repository.commits[sha]

    def create(self) -> None:
        wanted, user = json.loads(self.body), self.user()
        owner = wanted.get("organization") or user
        if user is None:
            raise _Refused(401, message="Invalid username or password.")
        if owner != user:
            raise _Refused(403, message=f"You don't have the rights to create a model under the namespace {owner}")
        name = f"{owner}/{wanted['name']}"
        address = {"url": f"{self.hub.endpoint}/{name}", "name": name}
        if name in self.hub.repositories:
            self.answer({"error": "You already created this model repo", **address}, 409)
            return
        private = wanted.get("private") or wanted.get("visibility") == "private"  # older and newer clients
        self.hub.put(name, {".gitattributes": b"*.safetensors filter=lfs\n"}, private=private)
        self.answer(address)

    def validate_card(self) -> None:
        """What the hub refuses a README.md for, as far as it says so: no front matter of names and values."""
        found = re.match(r"---\n(.*?)\n---\n", json.loads(self.body)["content"], re.DOTALL)
        try:
            metadata = yaml.safe_load(found[1]) if found else None
        except yaml.YAMLError as error:
            metadata = str(error)
        if metadata is not None and not isinstance(metadata, dict):
            self.answer({"errors": [{"message": f"bad front matter: {metadata}"}], "warnings": []}, 400)
            return
        warnings = [] if metadata else [{"message": "empty or missing yaml metadata in repo card"}]
        self.answer({"errors": [], "warnings": warnings})

    def preupload(self, repo: str, revision: str) -> None:
        self.writable(repo)
        _, there = self.commit_of(repo, revision)
        asked = [file["path"] for file in json.loads(self.body)["files"]]
        # Of large files the client compares the SHA-256, of others Git's name.
        known = {path: sha256(data) if is_large(path) else git_oid(path, data) for path, data in there.items()}
        modes = {path: "lfs" if is_large(path) else "regular" for path in asked}
        plain = {"shouldIgnore": False}
        self.answer({"files": [plain | {"path": p, "uploadMode": modes[p], "oid": known.get(p)} for p in asked]})

    def batch(self, repo: str) -> None:
        self.writable(repo)
        objects = [{"oid": one["oid"], "size": one["size"]} for one in json.loads(self.body)["objects"]]
        for one in objects:
            if one["oid"] not in self.hub.objects:
                one["actions"] = {"upload": {"href": f"{self.hub.storage}/{one['oid']}"}}
        self.answer({"transfer": "basic", "objects": objects})

    def put_object(self, oid: str) -> None:
        if sha256(self.body) != oid:
            raise _Refused(400, message="the content is not what its name says")
        self.hub.objects[oid] = self.body
        self.answer(b"")

    def get_object(self, oid: str) -> None:
        if self.headers.get("Authorization"):
            raise _Refused(400, message="a token is none of this host's business")
        self.answer(self.hub.objects[oid], headers={"ETag": f'"{oid}"'})

    def commit(self, repo: str, revision: str) -> None:
        repository = self.writable(repo)
        _, there = self.commit_of(repo, revision)
        files, summary = dict(there), ""
        for line in self.body.splitlines():
            item = json.loads(line)
            value = item["value"]
            match item["key"]:
                case "header":
                    summary = value["summary"]
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    files[value["path"]] = self.hub.objects[value["oid"]]
                case other:
                    raise _Refused(400, message=f"{other} is beyond this server")
        sha = repository.commit(files, summary)
        address = f"{self.hub.endpoint}/{repo}/commit/{sha}"
        self.answer({"success": True, "commitOid": sha, "commitUrl": address, "hookOutput": ""})

    def tag(self, repo: str, revision: str) -> None:
        repository = self.writable(repo)
        sha, _ = self.commit_of(repo, revision)
        repository.refs[json.loads(self.body)["tag"]] = sha
        self.answer({})

    def info(self, repo: str, revision: str | None = None) -> None:
        sha, files = self.commit_of(repo, revision or "main")
        siblings = [{"rfilename": path} for path in files]
        self.answer({"id": repo, "sha": sha, "private": self.hub.repositories[repo].private, "siblings": siblings})

    def tree(self, repo: str, revision: str) -> None:
        _, files = self.commit_of(repo, revision)
        entries = []
        for path, data in files.items():
            entries.append({"type": "file", "oid": git_oid(path, data), "size": len(data), "path": path})
            if is_large(path):
                entries[-1]["lfs"] = {"oid": sha256(data), "size": len(data), "pointerSize": len(pointer(data))}
        self.answer(entries)

    def resolve(self, repo: str, revision: str, path: str) -> None:
        """A small file itself; for a large one where it lies, and what it is."""
        sha, files = self.commit_of(repo, revision)
        if path not in files:
            raise _Refused(404, "EntryNotFound", "Entry not found")
        data = files[path]
        headers = {"X-Repo-Commit": sha, "ETag": f'"{git_oid(path, data)}"'}
        if not is_large(path):
            self.answer(data, headers=headers)
            return
        linked = {"X-Linked-Etag": f'"{sha256(data)}"', "X-Linked-Size": str(len(data))}
        self.answer(b"", 302, headers | linked | {"Location": f"{self.hub.storage}/{sha256(data)}"})


_REPO = r"(?P<repo>[^/]+/[^/]+?)"
_ROUTES: list[tuple[str, str, Callable[..., None]]] = [
    ("POST", "/api/repos/create", _Handler.create),
    ("POST", "/api/validate-yaml", _Handler.validate_card),
    ("POST", f"/api/models/{_REPO}/preupload/(?P<revision>.+)", _Handler.preupload),
    ("POST", f"/{_REPO}\\.git/info/lfs/objects/batch", _Handler.batch),
    ("PUT", "/objects/(?P<oid>[0-9a-f]{64})", _Handler.put_object),
    ("GET HEAD", "/objects/(?P<oid>[0-9a-f]{64})", _Handler.get_object),
    ("POST", f"/api/models/{_REPO}/commit/(?P<revision>.+)", _Handler.commit),
    ("POST", f"/api/models/{_REPO}/tag/(?P<revision>.+)", _Handler.tag),
    ("GET", f"/api/models/{_REPO}", _Handler.info),
    ("GET", f"/api/models/{_REPO}/revision/(?P<revision>.+)", _Handler.info),
    ("GET", f"/api/models/{_REPO}/tree/(?P<revision>.+)", _Handler.tree),
    ("GET HEAD", f"/{_REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", _Handler.resolve),
]
