"""A small server that speaks what uploads to a hub and downloads from it need, and keeps everything in memory."""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_for_a_test"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = (".safetensors", ".gguf", ".parquet")


class Hub(ThreadingHTTPServer):
    """Repositories as `models/owner/name` -> path -> content."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos, self.objects, self.private = {}, {}, {}

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """Standard error is for the test."""

    def answer(self, content, status=200, headers=()):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in (("Content-Length", str(len(body))), *headers):
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status, reason):
        self.answer({"error": reason}, status, [("X-Error-Message", reason)])

    def body(self):
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_POST(self):
        path, body = unquote(urlsplit(self.path).path), self.body()
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.refuse(401, "Invalid username or password.")
        if path == "/api/repos/create":
            about = json.loads(body)
            repo = f"{about.get('type', 'model')}s/{about['organization']}/{about['name']}"
            self.server.repos.setdefault(repo, {})
            self.server.private[repo] = about.get("visibility") == "private" or about.get("private") is True
            return self.answer({"url": f"{self.server.address}/{repo.removeprefix('models/')}"})
        if path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if found := re.fullmatch(r"/api/((?:models|datasets)/.+)/preupload/main", path):
            files = [
                {
                    "path": each["path"],
                    "uploadMode": "lfs" if each["path"].endswith(LARGE) else "regular",
                    "shouldIgnore": False,
                }
                for each in json.loads(body)["files"]
            ]
            return self.answer({"files": files})
        if path.endswith(".git/info/lfs/objects/batch"):
            href = f"{self.server.address}/objects/"
            objects = [
                {**each, "actions": {"upload": {"href": href + each["oid"]}}} for each in json.loads(body)["objects"]
            ]
            return self.answer({"transfer": "basic", "objects": objects})
        if found := re.fullmatch(r"/api/((?:models|datasets)/.+)/commit/main", path):
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    self.server.repos[found[1]][value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    self.server.repos[found[1]][value["path"]] = self.server.objects[value["oid"]]
            url = f"{self.server.address}/{found[1].removeprefix('models/')}/commit/{COMMIT}"
            return self.answer({"commitUrl": url, "commitOid": COMMIT})
        return self.refuse(404, f"nothing at {path}")

    def do_PUT(self):
        content = self.body()
        oid = self.path.rpartition("/")[2]
        assert hashlib.sha256(content).hexdigest() == oid
        self.server.objects[oid] = content
        self.answer({})

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        if found := re.fullmatch(r"/api/(models/[^/]+/[^/]+)(?:/revision/[^/]+)?", path):
            if found[1] in self.server.repos:
                files = [{"rfilename": name} for name in self.server.repos[found[1]]]
                return self.answer({"id": found[1].removeprefix("models/"), "sha": COMMIT, "siblings": files})
        elif found := re.fullmatch(r"/api/(models/[^/]+/[^/]+)/tree/[^/]+", path):
            files = self.server.repos.get(found[1], {}).items()
            return self.answer(
                [{"type": "file", "path": n, "size": len(c), "oid": hashlib.sha1(c).hexdigest()} for n, c in files]
            )
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            content = self.server.repos.get(f"models/{found[1]}", {}).get(found[2])
            if content is not None:
                tag = f'"{hashlib.sha1(content).hexdigest()}"'
                return self.answer(content, headers=[("ETag", tag), ("X-Repo-Commit", COMMIT)])
        self.answer({"error": "Repository not found"}, 404, [("X-Error-Code", "RepoNotFound")])


def started():
    """A hub that serves in a thread of its own."""
    hub = Hub()
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    return hub
