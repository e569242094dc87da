"""A double of a MiG server, over real TLS with client certificates. No real one can be had for a test.

It behaves as the real one was seen to: replies begin with `Exit code: N Description ...`, then a title and a
heading; parameters have to be separated by `&` (the original's `;` is refused with 100); an unknown id is
100, a missing file 105; CERTPUT answers with a code and a Python literal. `python3=True` is a server that
runs on Python 3, whose CERTPUT fails. Jobs do not run: `advance` puts them into a state.
"""

from __future__ import annotations

import fnmatch
import http.server
import io
import posixpath
import ssl
import tarfile
import threading
from typing import Any
from urllib.parse import parse_qs, unquote

from mpiframe.plugins.grid.mig import mrsl


class MigDouble:
    """The server: `home` has the user's files by path, `jobs` their states by id, `seen` all requests."""

    def __init__(self, context: ssl.SSLContext, python3: bool = False) -> None:
        self.home: dict[str, bytes] = {}
        self.folders = {""}
        self.jobs: dict[str, dict[str, str]] = {}
        self.descriptions: dict[str, mrsl.Description] = {}
        self.seen: list[tuple[str, str, bytes]] = []
        self.python3 = python3
        self.answer: tuple[int, bytes] | None = None  # to be given whatever is asked
        double = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                double._handle(self, "POST")

            def do_GET(self) -> None:
                double._handle(self, "GET")

            def do_CERTPUT(self) -> None:
                double._handle(self, "CERTPUT")

            def log_message(self, *_: Any) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def finish_request(self, request: Any, client_address: Any) -> None:
                # In the connection's own thread, so that no client keeps the others waiting.
                request.settimeout(20)
                try:
                    wrapped = context.wrap_socket(request, server_side=True)
                    super().finish_request(wrapped, client_address)  # type: ignore[arg-type]
                    wrapped.close()
                except OSError:
                    pass  # a client that was refused, or has refused us

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        self.url = f"https://127.0.0.1:{self._server.server_port}"

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def advance(self, job: str, state: str) -> None:
        """Put a job into a state."""
        self.jobs[job]["Status"] = state
        self.jobs[job][state.capitalize()] = "Sat Nov 21 22:00:00 2026"

    # -- requests --------------------------------------------------------------------------------

    def _handle(self, handler: Any, method: str) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        path = unquote(handler.path)
        self.seen.append((method, path, body))
        if self.answer is not None:
            status, content = self.answer
        elif method == "CERTPUT":
            status, content = self._put(path.lstrip("/"), body, handler.headers.get("Content-Type"))
        elif method == "GET":
            content = self.home.get(path.removeprefix("/cert_redirect/"), b"not found")
            status = 404 if path.removeprefix("/cert_redirect/") not in self.home else 200
        else:
            status, content = 200, self._script(posixpath.basename(path).removesuffix(".py"), body)
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    def _script(self, name: str, body: bytes) -> bytes:
        values = parse_qs(body.decode())
        if values.get("output_format") != ["txt"]:
            return _reply(name, 100, "Client error", "** the input has values that are not accepted **\n")
        if name in ("jobstatus", "jobaction"):
            code, text = self._jobs(name, values)
        else:
            code, text = self._files(name, values.get("path", ["."])[0])
        return _reply(name, code, {0: "OK", 100: "Client error"}.get(code, "Error"), text)

    def _jobs(self, name: str, values: dict[str, list[str]]) -> tuple[int, str]:
        job = values["job_id"][0]
        if job not in self.jobs:
            return 100, f"** {job}: You do not have any matching job IDs! **\n"
        found = self.jobs[job]
        if name == "jobaction":
            if found["Status"] not in ("QUEUED", "EXECUTING", "FROZEN"):
                return 100, "** You can only cancel jobs with status: QUEUED or EXECUTING. **\n"
            self.advance(job, {"cancel": "CANCELED"}[values["action"][0]])
            return 0, ""
        return 0, "".join(f"{key}: {value}\n" for key, value in found.items()) + "\n"

    def _files(self, name: str, path: str) -> tuple[int, str]:
        path = posixpath.normpath(path).lstrip("./")
        matching = [p for p in self.home if p == path or fnmatch.fnmatch(p, path)]
        if name == "ls" and path in self.folders:
            names = [p for p in sorted({*self.home, *self.folders} - {""}) if posixpath.dirname(p) == path]
            return 0, "".join(f"{posixpath.basename(p)}\n" for p in names)
        if name == "mkdir":
            self.folders.add(path)
            return 0, ""
        if name == "rmdir" and path in self.folders:
            self.folders.remove(path)
            return 0, ""
        if not matching:
            return 105, f"{path}: No such file or directory\n"
        if name == "ls":
            return 0, "".join(f"{posixpath.basename(p)}\n" for p in matching)
        if name == "cat":
            return 0, "".join(self.home[p].decode() for p in matching)
        assert name == "rm", name
        for p in matching:
            del self.home[p]
        return 0, ""

    def _put(self, path: str, body: bytes, kind: str | None) -> tuple[int, bytes]:
        if self.python3:
            return 500, b"a bytes-like object is required, not 'str'"
        if posixpath.dirname(path) not in self.folders:
            return 200, b"100\nYou're trying to write to an invalid directory"
        self.home[path] = body
        if kind not in ("submitmrsl", "submitandextract"):
            return 200, b"0\nOK\n"
        names = [path]
        if kind == "submitandextract":
            with tarfile.open(fileobj=io.BytesIO(body)) as archive:
                for member in archive.getmembers():
                    content = archive.extractfile(member)
                    assert content is not None
                    self.home[member.name] = content.read()
                names = [name for name in archive.getnames() if name.endswith(".mRSL")]
        told = []
        for name in names:
            description, problems = mrsl.read(self.home[name].decode())
            status: dict[str, Any] = {"object_type": "submitstatus", "name": name, "status": not problems}
            if problems:
                status["message"] = f"Failure: {problems[0]}"
            else:
                job = status["job_id"] = f"{len(self.jobs) + 1}_11_21_2026__22_0_0_double.0"
                self.descriptions[job] = description
                self.jobs[job] = {
                    "Job Id": job,
                    "Status": "QUEUED",
                    "Execute": "; ".join(description["EXECUTE"]),
                    "Received": "Sat Nov 21 21:00:00 2026",
                    "Queued": "Sat Nov 21 21:00:01 2026",
                    "Schedule hint": "GO now: 3",
                }
            told.append(status)
        return 200, f"0\n{told!r}\n".encode()


def _reply(name: str, code: int, description: str, text: str) -> bytes:
    heads = f"Title: {name}\n\n___{name.upper()}___\n\n"
    return f"Exit code: {code} Description {description}\n{heads}{text}".encode()
