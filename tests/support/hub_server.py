"""A server on the loopback interface that speaks the Hugging Face hub's protocol, and can fail.

It answers what `huggingface_hub` asks to download a file: HEAD and GET of `resolve`, with the
commit and the digest in headers; for large files a redirect to another path, as to the hub's CDN;
and the list of a repository's files.
"""

import contextlib
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from huggingface_hub import constants

TOKEN = "hf_of_the_test"
RESOLVE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
TREE = re.compile(r"/api/models/([^/]+/[^/]+)/tree/([^/?]+)")
CDN = re.compile(r"/cdn/([0-9a-f]{64})")


@contextlib.contextmanager
def serving(monkeypatch, home):
    """A server that `huggingface_hub` of this process uses, with an empty cache in `home`.

    The library reads its environment variables when it is imported, so they are of no use here.
    """
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    with HubServer() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield server


def downloads(server):
    """The Range header of each request for the content of a large file."""
    return [asked for _, path, asked in server.requests if CDN.fullmatch(path)]


def commit_of(files):
    """A commit of these files, as 40 hexadecimal digits."""
    return hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()


def is_large(name):
    return name.endswith((".safetensors", ".bin"))


def flipped(content):
    """The content with another last bit."""
    return content[:-1] + bytes([content[-1] ^ 1])


def etag_of(name, content):
    """The SHA-256 of a large file, and Git's SHA-1 of a small one."""
    if is_large(name):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


@dataclass
class Faults:
    """What the server does wrong.

    Attributes:
      drop_after: close the connection after so many bytes of the next large file; once.
      short: announce and send so many bytes less of each large file than its size.
      flip: change a bit of each file.
    """

    drop_after: int = 0
    short: int = 0
    flip: bool = False


@dataclass
class Repository:
    """Files by name for each revision, and who may see them: open, gated or private."""

    access: str = "open"
    revisions: dict = field(default_factory=dict)

    def files(self, revision):
        by_commit = {commit_of(files): files for files in self.revisions.values()}
        return self.revisions.get(revision, by_commit.get(revision))


class HubServer:
    """Serves repositories while it is open: `with HubServer() as hub: hub.url`.

    Attributes:
      repositories: by `owner/name`.
      faults: what it does wrong.
      requests: (method, path, Range header) of all requests.
    """

    def __init__(self):
        self.repositories = {}
        self.faults = Faults()
        self.requests = []
        self.blobs = {}

    def add(self, repository, files, revision="main", access="open"):
        """Adds a commit with these files, which a branch or tag names; returns the commit."""
        found = self.repositories.setdefault(repository, Repository(access))
        found.revisions[revision] = files
        return commit_of(files)

    @property
    def url(self):
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def cdn(self):
        """The same server by another name, for the library follows redirects to the same host."""
        return self.url.replace("127.0.0.1", "localhost")

    def __enter__(self):
        class Handler(_Handler):
            hub = self

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        return self

    def close(self):
        """Takes the server from the network."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()

    def __exit__(self, *_):
        self.close()


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer

    def log_message(self, format, *args):
        pass

    def do_HEAD(self):
        self._answer()

    def do_GET(self):
        self._answer()

    def _answer(self):
        self.hub.requests.append((self.command, self.path, self.headers.get("Range")))
        if found := CDN.fullmatch(self.path):
            self._send_large(self.hub.blobs[found[1]])
        elif found := RESOLVE.fullmatch(self.path):
            self._resolve(*found.groups())
        elif found := TREE.match(self.path):
            self._list(*found.groups())
        else:
            self._send(404)

    def _files(self, repository, revision):
        """The files of a revision; None if the request has been refused."""
        found = self.hub.repositories.get(repository)
        allowed = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if found is None or (found.access == "private" and not allowed):
            return self._send(401, {"X-Error-Code": "RepoNotFound"})
        if found.access == "gated" and not allowed:
            return self._send(401, {"X-Error-Code": "GatedRepo"})
        if found.access == "forbidden":
            return self._send(403)
        files = found.files(revision)
        return files or self._send(404, {"X-Error-Code": "RevisionNotFound"})

    def _resolve(self, repository, revision, name):
        if (files := self._files(repository, revision)) is None:
            return
        headers = {"X-Repo-Commit": commit_of(files)}
        if name not in files:
            self._send(404, headers | {"X-Error-Code": "EntryNotFound"})
            return
        content = files[name]
        etag = etag_of(name, content)
        headers["ETag"] = f'"{etag}"'
        if not is_large(name):
            self._send(200, headers, flipped(content) if self.hub.faults.flip else content)
            return
        self.hub.blobs[etag] = content
        linked = {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(content))}
        self._send(302, headers | linked | {"Location": f"{self.hub.cdn}/cdn/{etag}"})

    def _list(self, repository, revision):
        if (files := self._files(repository, revision)) is None:
            return
        listed = [
            {"type": "file", "path": name, "size": len(content), "oid": etag_of(name, content)}
            for name, content in files.items()
        ]
        self._send(200, {"Content-Type": "application/json"}, json.dumps(listed).encode())

    def _send_large(self, content):
        faults = self.hub.faults
        if faults.flip:
            content = flipped(content)
        content = content[: len(content) - faults.short]
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        end = len(content)
        headers = {"Content-Length": str(end - start)}
        if start:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{end}"
        if faults.drop_after:
            end, faults.drop_after = faults.drop_after, 0
        self._send(206 if start else 200, headers, content[start:end])

    def _send(self, status, headers=None, content=b""):
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)
