"""A hub on this machine: git repositories with git-lfs objects, in a folder or over HTTP, and the hub's own API."""

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from tests.support.loopback import LoopbackServer

ENVIRONMENT = {
    **{key: value for key, value in os.environ.items() if not key.startswith("GIT_")},
    **{"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "LC_ALL": "C"},
    **{f"GIT_{who}_{what}": "test@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
}
LFS_ENDINGS = ("*.jpg", "*.png", "*.zip")


def git(folder, *arguments):
    """Run git in a folder, and return its output."""
    return subprocess.run(
        ["git", *arguments], cwd=folder, env=ENVIRONMENT, check=True, capture_output=True
    ).stdout.decode()


class Dataset:
    """A repository of the hub, ``{root}/datasets/{name}.git``, with a clone in which it is changed; new or existing."""

    def __init__(self, root, name, lfs=LFS_ENDINGS):
        self.name, self.remote, self.work = name, root / "datasets" / f"{name}.git", root / "work" / name
        if self.work.exists():
            return
        self.work.mkdir(parents=True)
        git(self.work, "init", "--quiet", "--initial-branch=master")
        if lfs:
            git(self.work, "lfs", "install", "--local")
            git(self.work, "lfs", "track", *lfs)

    def commit(self, files, *refs):
        """Replace all files, push them to ``refs`` (branches, or tags as refs/tags/…), and return the commit."""
        for old in self.work.iterdir():
            if old.name not in (".git", ".gitattributes"):
                shutil.rmtree(old) if old.is_dir() else old.unlink()
        for path, content in files.items():
            (self.work / path).parent.mkdir(parents=True, exist_ok=True)
            (self.work / path).write_bytes(content)
        git(self.work, "add", "--all")
        git(self.work, "commit", "--quiet", "--allow-empty", "--message", "data")
        if not self.remote.exists():
            git(self.work, "init", "--quiet", "--bare", str(self.remote))
        for ref in refs or ["master"]:
            target = ref if ref.startswith("refs/") else f"refs/heads/{ref}"
            git(self.work, "push", "--quiet", "--force", "--no-verify", str(self.remote), f"HEAD:{target}")
        if (self.work / ".git" / "lfs" / "objects").exists():
            shutil.copytree(self.work / ".git/lfs/objects", self.remote / "lfs/objects", dirs_exist_ok=True)
        return git(self.work, "rev-parse", "HEAD").strip()


class Published:
    """The files of a repository; each commit is read once."""

    def __init__(self, remote):
        self.remote, self.seen = remote, {}

    def files(self, revision):
        """Path and content of each file of a revision, including those in git-lfs."""
        commit = git(self.remote, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}").strip()
        if commit not in self.seen:
            self.seen[commit] = self._files(commit)
        return self.seen[commit]

    def _files(self, revision):
        found = {}
        export = ["git", "archive", "--format=tar", revision]
        packed = subprocess.run(export, cwd=self.remote, env=ENVIRONMENT, check=True, capture_output=True).stdout
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            for member in archive:
                if not member.isfile():
                    continue
                content = archive.extractfile(member).read()
                if pointer := re.search(rb"\Aversion https://git-lfs.*\noid sha256:(\w+)", content):
                    content = object_path(self.remote, pointer[1].decode()).read_bytes()
                found[member.name] = content
        return found


def object_path(repository, oid):
    """The file in which git-lfs stores an object."""
    return Path(repository) / "lfs" / "objects" / oid[:2] / oid[2:4] / oid


class Hub(LoopbackServer):
    """A web server with the hub's API for listing and downloading and, unless ``git`` is False, its git repositories.

    ``faults`` maps a part of the URL to a status, to a body (bytes), to the number of bytes before a break, or
    to a function that answers.
    """

    def __init__(self, root):
        self.root, self.git, self.faults, self.requests, self.published = Path(root), True, {}, [], {}
        self.protocol = None  # the version of git's protocol; None lets the client choose
        super().__init__()

    def answer(self, request):
        """Answer one request."""
        url = urlsplit(request.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        self.requests.append((request.path, request.headers.get("Range")))
        fault = next((fault for part, fault in self.faults.items() if part in request.path), None)
        if isinstance(fault, int) and fault >= 400:
            return self.send(request, fault, b'{"Code": 10010205001, "Message": "not found"}')
        if isinstance(fault, bytes):
            return self.send(request, 200, fault)
        if callable(fault):
            return fault(request)
        if match := re.fullmatch(r"/api/v1/datasets/([^/]+/[^/]+)/repo(/tree)?", url.path):
            dataset = self.dataset(match[1])
            answer = self.listing if match[2] else self.download
            return answer(request, dataset, query)
        if self.git and url.path.endswith("/info/lfs/objects/batch"):
            return self.batch(request)
        if self.git and (match := re.fullmatch(r"/objects/(.+\.git)/(\w{64})", url.path)):
            return self.send(request, 200, object_path(self.root / "datasets" / match[1], match[2]).read_bytes(), fault)
        if self.git and url.path.startswith("/datasets/"):
            return self.backend(request, url)
        return self.send(request, 404, b"{}")

    def dataset(self, name):
        return self.published.setdefault(name, Published(self.root / "datasets" / f"{name}.git"))

    def send(self, request, status, body, cut=None, headers=()):
        request.send_response(status)
        for key, value in {"Content-Length": len(body), "Content-Type": "application/json", **dict(headers)}.items():
            request.send_header(key, str(value))
        request.end_headers()
        request.wfile.write(body[:cut])

    def listing(self, request, dataset, query):
        try:
            files = dataset.files(query["Revision"])
        except (subprocess.CalledProcessError, FileNotFoundError):
            return self.send(request, 404, b'{"Code": 10010205001, "Message": "no such dataset or revision"}')
        folders = {parent.as_posix() for path in files for parent in Path(path).parents} - {"."}
        entries = [{"Path": path, "Type": "tree", "Size": 0, "Sha256": ""} for path in sorted(folders)]
        for path, content in files.items():
            sha256 = hashlib.sha256(content).hexdigest()
            entries.append({"Path": path, "Type": "blob", "Size": len(content), "Sha256": sha256})
        number, size = int(query["PageNumber"]), int(query["PageSize"])
        page = entries[(number - 1) * size : number * size]
        self.send(request, 200, json.dumps({"Code": 200, "Data": {"Files": page}, "Success": True}).encode())

    def download(self, request, dataset, query):
        content = dataset.files(query["Revision"])[query["FilePath"]]
        fault = next((cut for part, cut in self.faults.items() if part in query["FilePath"]), None)
        asked = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
        if asked:
            start, end = int(asked[1]), len(content) - 1
            headers = {"Content-Range": f"bytes {start}-{end}/{len(content)}"}
            return self.send(request, 206, content[start:], headers=headers)
        self.send(request, 200, content, fault)

    def batch(self, request):
        asked = json.loads(request.rfile.read(int(request.headers["Content-Length"])))
        repository = request.path.removeprefix("/datasets/").removesuffix("/info/lfs/objects/batch")
        objects = [
            {**wanted, "actions": {"download": {"href": f"{self.url}/objects/{repository}/{wanted['oid']}"}}}
            for wanted in asked["objects"]
        ]
        body = json.dumps({"transfer": "basic", "objects": objects}).encode()
        self.send(request, 200, body, headers={"Content-Type": "application/vnd.git-lfs+json"})

    def backend(self, request, url):
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        environment = ENVIRONMENT | {
            "GIT_PROJECT_ROOT": str(self.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_PROTOCOL": request.headers.get("Git-Protocol", "") if self.protocol is None else self.protocol,
            "HTTP_CONTENT_ENCODING": request.headers.get("Content-Encoding", ""),
            "REQUEST_METHOD": request.command,
            "PATH_INFO": url.path,
            "QUERY_STRING": url.query,
            "CONTENT_TYPE": request.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
        }
        done = subprocess.run(["git", "http-backend"], input=body, env=environment, capture_output=True)
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().splitlines())
        status = int(headers.pop("Status", "200 OK").split()[0])
        self.send(request, status, content, headers=headers)
