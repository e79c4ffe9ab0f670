"""A hub on the loopback: the routes that huggingface_hub's downloads need, and its error codes."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

# repository -> revision -> folder with its files
Repositories = dict[str, dict[str, Path]]


def commit_of(folder: Path) -> str:
    """Return the commit that the server gives for a folder: 40 hex digits."""
    return hashlib.sha1(str(folder).encode()).hexdigest()


class Handler(BaseHTTPRequestHandler):
    repositories: Repositories
    asked: list[str]

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        self.asked.append(f"{self.command} {self.path}")
        owner, name, _, revision, *rest = self.path.lstrip("/").split("/")
        if name == "gated":
            return self.refuse(403, "GatedRepo")
        revisions = self.repositories.get(f"{owner}/{name}")
        if revisions is None:
            return self.refuse(401, "RepoNotFound")
        by_commit = {commit_of(folder): folder for folder in revisions.values()}
        folder = (revisions | by_commit).get(revision)
        if folder is None:
            return self.refuse(404, "RevisionNotFound")
        file = folder.joinpath(*rest)
        if not file.is_file():
            return self.refuse(404, "EntryNotFound", commit_of(folder))
        content = file.read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", commit_of(folder))
        self.end_headers()
        if body:
            self.wfile.write(content)
        return None

    def refuse(self, status: int, code: str, commit: str | None = None) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", code)
        if commit:
            self.send_header("X-Repo-Commit", commit)
        self.send_header("Content-Length", "0")
        self.end_headers()


@contextmanager
def serve(repositories: Repositories) -> Iterator[tuple[str, list[str]]]:
    """Serve on a free port; yield the endpoint and the list of what was asked for."""
    asked: list[str] = []
    kind = type("Bound", (Handler,), {"repositories": repositories, "asked": asked})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
