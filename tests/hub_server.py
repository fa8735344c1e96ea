"""A stand-in for the Hugging Face Hub: the few of its HTTP endpoints that pushing and pulling a model uses, kept in memory."""

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import yaml

TOKEN = "hf_of_somebody"
OWNER = "somebody"
# What the real one stores outside git, and serves through another upload path.
_LARGE = (".zip", ".pth", ".pkl", ".mp4")
_REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"


@dataclass
class LocalHub:
    """
    The Hub's content.

    :param repos: Repository id -> path -> content
    :param commits: Repository id -> messages of its commits
    :param large: Uploaded large files by their SHA-256
    :param url: Where it is served
    """

    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    commits: dict[str, list[str]] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    url: str = ""

    def sha(self, repo: str) -> str:
        """Name of a repository's latest commit, 40 hexadecimal digits."""
        return hashlib.sha1(f"{repo}:{len(self.commits[repo])}".encode()).hexdigest()


class _Refused(Exception):
    def __init__(self, status: int, code: str, **content: str):
        super().__init__(code)
        self.status, self.code, self.content = status, code, content


@contextmanager
def serve() -> Iterator[LocalHub]:
    """Serve an empty hub on a free port of this machine."""
    hub = LocalHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: LocalHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None: ...

    def do_GET(self) -> None:
        self._answer("GET")

    def do_HEAD(self) -> None:
        self._answer("HEAD")

    def do_POST(self) -> None:
        self._answer("POST")

    def do_PUT(self) -> None:
        self._answer("PUT")

    def _answer(self, method: str) -> None:
        self.body = self._read_body()
        try:
            route, match = self._find_route(method)
            if method == "POST" and self.headers.get("Authorization") != f"Bearer {TOKEN}":
                raise _Refused(401, "Unauthorized")
            answer = route(self, **match)
        except _Refused as refusal:
            message = json.dumps({"error": refusal.code, **refusal.content}).encode()
            self._send(refusal.status, message, {"X-Error-Code": refusal.code, "X-Error-Message": refusal.code})
            return
        if isinstance(answer, bytes):
            self._send(
                200, answer, {"ETag": f'"{hashlib.sha256(answer).hexdigest()}"', "X-Repo-Commit": self.hub.sha(match["repo"])}
            )
        else:
            self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            chunks = []
            while size := int(self.rfile.readline(), 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(chunks)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _find_route(self, method: str) -> tuple[Callable[..., Any], dict[str, str]]:
        path = self.path.split("?")[0]
        for methods, pattern, route in _ROUTES:
            if method in methods and (match := re.fullmatch(pattern, path)):
                return route, match.groupdict()
        raise _Refused(404, "RepoNotFound")

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _files(self, repo: str) -> dict[str, bytes]:
        if repo not in self.hub.repos:
            raise _Refused(404, "RepoNotFound")
        return self.hub.repos[repo]

    def _create(self) -> Any:
        asked = json.loads(self.body)
        repo = f"{asked['organization']}/{asked['name']}"
        if asked["organization"] != OWNER:
            raise _Refused(403, "Forbidden")
        url = f"{self.hub.url}/{repo}"
        if repo in self.hub.repos:
            raise _Refused(409, "RepoExists", url=url)
        self.hub.repos[repo], self.hub.commits[repo] = {".gitattributes": b"*.zip filter=lfs diff=lfs merge=lfs -text\n"}, []
        return {"url": url}

    def _info(self, repo: str) -> Any:
        return {"id": repo, "sha": self.hub.sha(repo), "siblings": [{"rfilename": path} for path in self._files(repo)]}

    def _tree(self, repo: str) -> Any:
        return [
            {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
            for path, content in self._files(repo).items()
        ]

    def _preupload(self, repo: str) -> Any:
        self._files(repo)
        paths = [file["path"] for file in json.loads(self.body)["files"]]
        modes = {path: "lfs" if path.endswith(_LARGE) else "regular" for path in paths}
        return {"files": [{"path": path, "uploadMode": mode, "shouldIgnore": False} for path, mode in modes.items()]}

    def _batch(self, repo: str) -> Any:
        objects = [
            {**file, "actions": {"upload": {"href": f"{self.hub.url}/large/{repo}/{file['oid']}"}}}
            for file in json.loads(self.body)["objects"]
        ]
        return {"transfer": "basic", "objects": objects}

    def _commit(self, repo: str) -> Any:
        files = self._files(repo)
        for line in self.body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                self.hub.commits[repo].append(value["summary"])
            elif entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
            else:
                raise _Refused(400, f"Unknown operation {entry['key']}")
        return {"commitUrl": f"{self.hub.url}/{repo}/commit/{self.hub.sha(repo)}", "commitOid": self.hub.sha(repo)}

    def _validate(self) -> Any:
        block = re.match(r"---\n(.*?)\n---\n", json.loads(self.body)["content"], flags=re.DOTALL)
        try:
            metadata = yaml.safe_load(block[1]) if block else None
        except yaml.YAMLError:
            metadata = None
        if not isinstance(metadata, dict):
            raise _Refused(400, "Invalid metadata")
        return {"errors": [], "warnings": []}

    def _resolve(self, repo: str, path: str) -> bytes:
        files = self._files(repo)
        if path not in files:
            raise _Refused(404, "EntryNotFound")
        return files[path]

    def _put(self, repo: str, oid: str) -> Any:
        self._files(repo)
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise _Refused(400, "Content does not match its hash")
        self.hub.large[oid] = self.body
        return {}


_ROUTES: list[tuple[tuple[str, ...], str, Callable[..., Any]]] = [
    (("POST",), "/api/repos/create", _Handler._create),
    (("POST",), "/api/validate-yaml", _Handler._validate),
    (("GET",), rf"/api/models/{_REPO}/revision/\w+", _Handler._info),
    (("GET",), rf"/api/models/{_REPO}/tree/\w+", _Handler._tree),
    (("POST",), rf"/api/models/{_REPO}/preupload/\w+", _Handler._preupload),
    (("POST",), rf"/api/models/{_REPO}/commit/\w+", _Handler._commit),
    (("POST",), rf"/{_REPO}\.git/info/lfs/objects/batch", _Handler._batch),
    (("PUT",), rf"/large/{_REPO}/(?P<oid>\w+)", _Handler._put),
    (("GET", "HEAD"), rf"/{_REPO}/resolve/\w+/(?P<path>.+)", _Handler._resolve),
]
