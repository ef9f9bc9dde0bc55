"""A server that speaks as much of the Hub's protocol as uploads and downloads need, in memory.

Commits, trees, resolved files with ranges, LFS uploads, tokens; and faults on demand.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_writes"
DATE = "2026-01-01T00:00:00.000Z"


@dataclass
class Repo:
    """Commits in order, each the content of all of its files."""

    private: bool = False
    commits: list[dict[str, bytes]] = field(default_factory=lambda: [{}])

    def sha(self, number: int) -> str:
        """A name for a commit."""
        return hashlib.sha1(f"{id(self)} {number}".encode()).hexdigest()

    def find(self, revision: str) -> int | None:
        """The commit of a revision."""
        if revision == "main":
            return len(self.commits) - 1
        names = [self.sha(number) for number in range(len(self.commits))]
        return names.index(revision) if revision in names else None


class HubServer:
    """The state of the server, its requests, and the faults that it is asked for.

    `faults` are functions of (method, path) that say what goes wrong, if anything: a status, "drop"
    for a connection that breaks, "cut" for an answer that ends half way, "flip" for a changed byte.
    """

    def __init__(self):
        self.repos: dict[tuple[str, str], Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.faults: list[Callable[[str, str], int | str | None]] = []
        self.lock = threading.Lock()
        server = self

        class Handler(_Handler):
            hub = server

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def close(self):
        """Stop; again if need be."""
        self._http.shutdown()
        self._http.server_close()

    def files(self, repo_id: str, kind: str = "model") -> dict[str, bytes]:
        """What is in the latest commit of a repository."""
        return self.repos[kind, repo_id].commits[-1]

    @contextmanager
    def failing(self, pattern: str, what: int | str, method: str = "", times: int = 10**6):
        """Requests of a path (and method) fail, so many times."""
        left = [times]

        def fault(of_method: str, path: str) -> int | str | None:
            if not re.search(pattern, path) or (method and of_method != method) or not left[0]:
                return None
            left[0] -= 1
            return what

        self.faults.append(fault)
        try:
            yield
        finally:
            self.faults.remove(fault)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubServer

    def log_message(self, *arguments):
        """Nothing to the console."""

    def _answer(self):
        size = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(size) if size else self._chunked()
        parts = urlsplit(self.path)
        self.query, path = parse_qs(parts.query), unquote(parts.path)
        with self.hub.lock:
            self.hub.requests.append((self.command, path))
        self.fault = next((f for one in self.hub.faults if (f := one(self.command, path))), None)
        if self.fault == "drop":
            self.close_connection = True
            self.connection.close()
            return
        if isinstance(self.fault, int):
            self._send(self.fault, {"error": "asked for"})
            return
        for pattern, handle in self.ROUTES:
            if found := re.fullmatch(pattern, path):
                handle(self, **found.groupdict())
                return
        self._send(404, {"error": f"no route for {path}"})

    do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = _answer  # noqa: N815

    def _chunked(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return b""
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _send(self, status: int, content=None, headers=(), raw: bytes | None = None):
        body = json.dumps(content).encode() if raw is None else raw
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.fault == "cut":
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()
            return
        self.wfile.write(body)

    @property
    def _token(self) -> str | None:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None

    def _repo(self, kind: str, repo: str, *, write: bool = False) -> Repo | None:
        """The repository if it is there and may be seen; else an error has been sent."""
        found = self.hub.repos.get((kind, repo))
        wrong_token = self._token not in (None, TOKEN)
        if wrong_token or (write and self._token != TOKEN):
            self._send(401, {"error": "Invalid credentials"})
        elif found is None or (found.private and self._token != TOKEN):
            self._send(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        else:
            return found
        return None

    def _commit(self, kind: str, repo: str, revision: str):
        """(Repository, number of the commit), or nothing once an error has been sent."""
        found = self._repo(kind, repo)
        if found is None:
            return None
        number = found.find(revision)
        if number is None:
            self._send(404, {"error": "Revision"}, {"X-Error-Code": "RevisionNotFound"})
            return None
        return found, number

    # ------------------------------------------------------------------------------------------

    def _whoami(self):
        if self._token != TOKEN:
            self._send(401, {"error": "Invalid credentials"})
            return
        self._send(200, {"name": "me", "type": "user", "auth": {"type": "access_token"}})

    def _validate_yaml(self):
        card = json.loads(self.body)["content"]
        ok = card.startswith("---\n") and "\n---\n" in card
        errors = [] if ok else [{"message": "no metadata"}]
        self._send(200 if ok else 400, {"errors": errors, "warnings": []})

    def _create(self):
        asked = json.loads(self.body)
        kind = asked.get("type") or "model"
        name = f"{asked.get('organization') or 'me'}/{asked['name']}"
        if self._token != TOKEN:
            self._send(401, {"error": "Invalid credentials"})
            return
        url = f"{self.hub.url}/{'datasets/' if kind == 'dataset' else ''}{name}"
        if (kind, name) in self.hub.repos:
            self._send(409, {"error": "You already created this repo", "url": url})
            return
        private = bool(asked.get("private")) or asked.get("visibility") == "private"
        self.hub.repos[kind, name] = Repo(private)
        self._send(200, {"url": url, "name": name})

    def _info(self, kind: str, repo: str, revision: str = "main"):
        if found := self._commit(kind, repo, revision):
            repository, number = found
            files = repository.commits[number]
            self._send(
                200,
                {
                    "id": repo,
                    "modelId": repo,
                    "sha": repository.sha(number),
                    "private": repository.private,
                    "lastModified": DATE,
                    "createdAt": DATE,
                    "tags": [],
                    "downloads": 0,
                    "likes": 0,
                    "siblings": [{"rfilename": name} for name in sorted(files)],
                },
            )

    def _tree(self, kind: str, repo: str, revision: str, under: str = ""):
        if found := self._commit(kind, repo, revision):
            files = found[0].commits[found[1]]
            recursive = self.query.get("recursive", ["false"])[0].lower() == "true"
            under = under.strip("/")
            prefix = f"{under}/" if under else ""
            if under and not any(name.startswith(prefix) for name in files):
                self._send(404, {"error": "no entry"}, {"X-Error-Code": "EntryNotFound"})
                return
            entries, folders = [], set()
            for name in sorted(files):
                if not name.startswith(prefix):
                    continue
                first, _, rest = name[len(prefix) :].partition("/")
                if rest and first not in folders:
                    folders.add(first)
                    entries.append(_directory(prefix + first))
                if recursive or not rest:
                    entries.append(_file(name, files[name]))
            self._send(200, entries)

    def _paths_info(self, kind: str, repo: str, revision: str):
        if found := self._commit(kind, repo, revision):
            files = found[0].commits[found[1]]
            try:
                paths = json.loads(self.body)["paths"]
            except ValueError:
                paths = parse_qs(self.body.decode())["paths"]
            paths = [paths] if isinstance(paths, str) else paths
            entries = []
            for path in paths:
                if path in files:
                    entries.append(_file(path, files[path]))
                elif any(name.startswith(f"{path}/") for name in files):
                    entries.append(_directory(path))
            self._send(200, entries)

    def _preupload(self, kind: str, repo: str, revision: str):
        if self._repo(kind, repo, write=True):
            answers = [
                {
                    "path": one["path"],
                    "uploadMode": "lfs" if _is_lfs(one["path"]) else "regular",
                    "shouldIgnore": False,
                }
                for one in json.loads(self.body)["files"]
            ]
            self._send(200, {"files": answers})

    def _lfs_batch(self, kind: str, repo: str):
        if self._repo(kind, repo, write=True):
            objects = []
            for one in json.loads(self.body)["objects"]:
                answer = {"oid": one["oid"], "size": one["size"]}
                if one["oid"] not in self.hub.blobs:
                    answer["actions"] = {
                        "upload": {"href": f"{self.hub.url}/lfs/{one['oid']}"},
                        "verify": {"href": f"{self.hub.url}/lfs-verify"},
                    }
                objects.append(answer)
            self._send(200, {"transfer": "basic", "objects": objects})

    def _lfs_put(self, oid: str):
        if hashlib.sha256(self.body).hexdigest() != oid:
            self._send(400, {"error": "another hash"})
            return
        self.hub.blobs[oid] = self.body
        self._send(200, {})

    def _lfs_verify(self):
        asked = json.loads(self.body)
        there = len(self.hub.blobs.get(asked["oid"], b"")) == asked["size"]
        self._send(200 if there else 404, {})

    def _make_commit(self, kind: str, repo: str, revision: str):
        repository = self._repo(kind, repo, write=True)
        if repository is None:
            return
        files = dict(repository.commits[-1])
        for line in self.body.decode().splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                files[value["path"]] = self.hub.blobs[value["oid"]]
            elif operation["key"] == "deletedFile":
                files.pop(value["path"], None)
        repository.commits.append(files)
        sha = repository.sha(len(repository.commits) - 1)
        url = f"{self.hub.url}/{repo}/commit/{sha}"
        self._send(200, {"commitUrl": url, "commitOid": sha, "success": True})

    def _resolve(self, kind: str, repo: str, revision: str, name: str):
        found = self._commit(kind, repo, revision)
        if not found:
            return
        repository, number = found
        files = repository.commits[number]
        headers = {"X-Repo-Commit": repository.sha(number), "Accept-Ranges": "bytes"}
        if name not in files:
            self._send(404, {"error": "no entry"}, {**headers, "X-Error-Code": "EntryNotFound"})
            return
        content = files[name]
        headers["ETag"] = f'"{_etag(name, content)}"'
        if self.fault == "flip":
            content = content[:-1] + bytes([content[-1] ^ 1])
        status = 200
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            start, stop = int(wanted[1]), int(wanted[2] or len(content) - 1) + 1
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
            content, status = content[start:stop], 206
        self._send(status, raw=content, headers=headers)

    ROUTES = ()


def _is_lfs(name: str) -> bool:
    return name.endswith((".safetensors", ".parquet"))


def _etag(name: str, content: bytes) -> str:
    if _is_lfs(name):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _file(name: str, content: bytes) -> dict:
    entry = {"type": "file", "path": name, "size": len(content), "oid": _etag(name, content)}
    if _is_lfs(name):
        oid = hashlib.sha256(content).hexdigest()
        entry["lfs"] = {"oid": oid, "size": len(content), "pointerSize": 130}
    return entry


def _directory(name: str) -> dict:
    return {
        "type": "directory",
        "path": name,
        "size": 0,
        "oid": hashlib.sha1(name.encode()).hexdigest(),
    }


def _of(kind: str, pattern: str, handle):
    """A route of repositories of a kind."""

    def call(handler, **groups):
        handle(handler, kind, **groups)

    return pattern, call


_REPO = r"(?P<repo>[^/]+/[^/]+?)"
_Handler.ROUTES = [
    (r"/api/whoami-v2", _Handler._whoami),
    (r"/api/validate-yaml", _Handler._validate_yaml),
    (r"/api/repos/create", _Handler._create),
    (r"/lfs/(?P<oid>\w+)", _Handler._lfs_put),
    (r"/lfs-verify", _Handler._lfs_verify),
]
for _kind, _api, _web in (("dataset", "datasets", "/datasets"), ("model", "models", "")):
    _base = rf"/api/{_api}/{_REPO}"
    _Handler.ROUTES += [
        _of(_kind, rf"{_base}/preupload/(?P<revision>[^/]+)", _Handler._preupload),
        _of(_kind, rf"{_base}/commit/(?P<revision>[^/]+)", _Handler._make_commit),
        _of(_kind, rf"{_base}/revision/(?P<revision>[^/]+)", _Handler._info),
        _of(
            _kind,
            rf"{_base}/tree/(?P<revision>[^/]+)(?P<under>/.*)?",
            lambda h, kind, under=None, **g: h._tree(kind, under=under or "", **g),
        ),
        _of(_kind, rf"{_base}/paths-info/(?P<revision>[^/]+)", _Handler._paths_info),
        _of(_kind, _base, _Handler._info),
        _of(_kind, rf"{_web}/{_REPO}\.git/info/lfs/objects/batch", _Handler._lfs_batch),
        _of(_kind, rf"{_web}/{_REPO}/resolve/(?P<revision>[^/]+)/(?P<name>.+)", _Handler._resolve),
    ]
