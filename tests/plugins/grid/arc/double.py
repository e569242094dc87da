"""A stand-in for an ARC computing element: the REST interface as a real one, 6.17, was seen to answer.

It runs no jobs: a job's states are those that a test lists. `version` makes it speak 1.1, which the real one
of Debian does not. What it can be told to do wrong is in `Faults`. For the real one there is `test_real.py`.
"""

from __future__ import annotations

import http.server
import json
import re
import ssl
import threading
import urllib.parse
from dataclasses import dataclass, field
from typing import Any

from tests.plugins.grid.arc.authority import Authority

_JOBS = re.compile(r"/arex/rest/(1\.[01])/jobs(?:/([^/]+)/(session|diagnose)/?(.*))?")
_DELEGATIONS = re.compile(r"/arex/rest/1\.[01]/delegations(?:/([^/]+))?")


@dataclass
class Faults:
    """What goes wrong: each is used up by one request, but for those that are flags."""

    refuse: tuple[int, str] | None = None
    garbage: bytes | None = None
    hang_up_after: list[int] = field(default_factory=list)  # bytes of a download
    lose_upload_bytes: int = 0
    extra_names: list[str] = field(default_factory=list)
    silent: bool = False
    down: int = 0  # so many requests are cut off
    change_while_fetched: bool = False


@dataclass
class Job:
    """What the double keeps of a job."""

    description: str
    params: dict[str, str]
    states: list[str]
    files: dict[str, bytes] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)


class Double:
    """One element on a free port of the loopback, from `start` to `stop`."""

    def __init__(self, authority: Authority, version: str = "1.0", name: str = "localhost") -> None:
        self.version = version
        self.stopped = threading.Event()
        self.faults = Faults()
        self.jobs: dict[str, Job] = {}
        self.states = ["ACCEPTED", "RUNNING", "FINISHED"]
        self.delegations: dict[str, bytes] = {}
        self.csr = b""
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        certificate, key = authority.host(name)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        context.load_verify_locations(authority.file)
        context.verify_mode = ssl.CERT_OPTIONAL
        # As ARC does: a user's proxy is signed by what is no authority.
        context.verify_flags |= ssl.VerifyFlags(0x40)  # X509_V_FLAG_ALLOW_PROXY_CERTS
        double = self

        class Handler(_Handler):
            element = double

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._server.socket = context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        self.url = f"https://localhost:{self._server.server_address[1]}/arex"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Answer no more."""
        self.stopped.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that does not trust us, or hangs up, is what a test wants: not a text on the terminal."""


class _Handler(http.server.BaseHTTPRequestHandler):
    element: Double
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # an answer is one write, or the last part of it waits for 40 ms

    def log_message(self, format: str, *args: Any) -> None:
        """Not to the terminal."""

    def do_GET(self) -> None:
        self._answer()

    do_POST = do_PUT = do_HEAD = do_GET

    def _answer(self) -> None:
        element, faults = self.element, self.element.faults
        body = self._body()
        parts = urllib.parse.urlsplit(self.path)
        params = dict(urllib.parse.parse_qsl(parts.query))
        element.requests.append((self.command, self.path, dict(self.headers.items())))
        if faults.silent:
            self.close_connection = True
            self.element.stopped.wait(5)
            return None
        if faults.down:
            faults.down -= 1
            self.close_connection = True
            self.connection.close()
            return None
        if faults.refuse is not None:
            status, reason = faults.refuse
            return self._send(status, b"", reason=reason)
        if faults.garbage is not None:
            return self._send(200, faults.garbage)
        if not self.connection.getpeercert() and "Authorization" not in self.headers:  # type: ignore[attr-defined]
            return self._send(403, b"", reason="User can't be assigned configuration")
        if parts.path == "/arex/rest":
            return self._json(200, {"version": "1.0" if element.version == "1.0" else ["1.0", "1.1"]})
        path = urllib.parse.unquote(parts.path)
        if found := _JOBS.fullmatch(path):
            if found[1] > element.version:
                return self._send(404, b"", reason="Version Not Supported")
            if found[2]:
                return self._file(found[2], found[4], body)
            if self.command == "GET":
                return self._jobs([{"id": name} for name in element.jobs], 200)
            return self._manage(params, body)
        if found := _DELEGATIONS.fullmatch(path):
            return self._delegation(found[1], params, body)
        return self._send(404, b"", reason="Wrong path")

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            found = b""
            while size := int(self.rfile.readline(), 16):
                found += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return found
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _manage(self, params: dict[str, str], body: bytes) -> None:
        element, action = self.element, params.get("action")
        if action == "new":
            text = body.decode()
            if "unreadable" in text:
                return self._jobs([{"status-code": "500", "reason": "emies:adl parsing error"}])
            if "refused" in text:
                return self._jobs([{"status-code": "500", "reason": "Requested queue is not allowed"}])
            results = []
            for _ in range(max(1, text.count("(executable=") if text[0] == "+" else 1)):
                name = f"job{len(element.jobs)}Dm"
                element.jobs[name] = Job(text, params, list(element.states))
                results.append({"status-code": "201", "reason": "Created", "id": name, "state": "ACCEPTING"})
            return self._jobs(results)
        wanted = json.loads(body)["job"]
        results = []
        for name in [one["id"] for one in (wanted if isinstance(wanted, list) else [wanted])]:
            job = element.jobs.get(name)
            result: dict[str, Any] = {"status-code": "200", "reason": "OK", "id": name}
            if job is None:
                result.update({"status-code": "404", "reason": "Job not found"})
            elif action == "status":
                result["state"] = job.states.pop(0) if len(job.states) > 1 else job.states[0]
            elif action == "info":
                states = ["nordugrid:X", f"arcrest:{job.states[-1]}"]
                result["info_document"] = {"ComputingActivity": {"State": states, **job.info}}
            elif action == "kill":
                job.states[:] = ["KILLING", "KILLED"]
                result.update({"status-code": "202", "reason": "Queued for killing"})
            elif action == "clean":
                del element.jobs[name]
                result.update({"status-code": "202", "reason": "Queued for cleaning"})
            else:
                result.update({"status-code": "505", "reason": "Job can't be restarted"})
            results.append(result)
        return self._jobs(results)

    def _file(self, name: str, path: str, body: bytes) -> None:
        element, faults = self.element, self.element.faults
        job = element.jobs.get(name)
        if job is None:
            return self._send(404, b"", reason="OK")
        if self.command == "PUT":
            job.files[path] = body[: len(body) - faults.lose_upload_bytes]
            return self._send(200, b"")
        if path in job.files:
            return self._content(job, path)
        prefix = f"{path.rstrip('/')}/" if path else ""
        below = [one[len(prefix) :] for one in job.files if one.startswith(prefix)]
        if path and not below:
            return self._send(404, b"", reason="Not found")
        found = sorted(one for one in below if "/" not in one) + faults.extra_names
        folders = sorted({one.partition("/")[0] for one in below if "/" in one})
        listing: dict[str, Any] = {}
        for key, values in (("file", found), ("dir", folders)):
            if values:
                listing[key] = values[0] if len(values) == 1 and element.version == "1.0" else values
        return self._json(200, listing)

    def _content(self, job: Job, path: str) -> None:
        faults, whole = self.element.faults, job.files[path]
        start = 0
        if wanted := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start = int(wanted[1])
        headers = {"Content-Range": f"bytes {start}-{len(whole) - 1}/{len(whole)}"} if start else {}
        part = whole[start:]
        if self.command == "GET" and faults.hang_up_after:
            short = part[: faults.hang_up_after.pop(0)]
            if faults.change_while_fetched:
                job.files[path] = whole + b"more"
            self._send(206 if start else 200, short, headers=headers, length=len(part))
            self.close_connection = True
            return
        self._send(206 if start else 200, part, headers=headers)

    def _delegation(self, name: str | None, params: dict[str, str], body: bytes) -> None:
        element = self.element
        action = params.get("action")
        if self.command == "GET":
            found = [{"id": one} for one in element.delegations]
            shown: Any = found[0] if len(found) == 1 and element.version == "1.0" else found
            return self._json(200, {"delegation": shown}) if found else self._send(200, b"")
        if name is None:
            made = f"d{len(element.delegations)}"
            token = self.headers.get("X-Token-Delegation", "")
            element.delegations[made] = token.encode()
            # The real one of Debian has its query in it.
            place = f"/arex/rest/1.0/delegations?action=new/{made}"
            takes_tokens = token and element.version != "1.0"
            return self._send(201, b"" if takes_tokens else element.csr, headers={"Location": place})
        if name not in element.delegations:
            return self._send(404, b"", reason="No such delegation")
        if self.command == "PUT":
            element.delegations[name] = body
            return self._send(200, b"")
        if action == "renew":
            return self._send(201, element.csr)
        del element.delegations[name]
        return self._send(202, b"")

    def _jobs(self, results: list[dict[str, Any]], status: int = 201) -> None:
        if not results and self.element.version == "1.0":
            return self._send(status, b"")
        one = len(results) == 1 and self.element.version == "1.0"
        return self._json(status, {"job": results[0] if one else results})

    def _json(self, status: int, value: Any) -> None:
        self._send(status, json.dumps(value).encode(), headers={"Content-Type": "application/json"})

    def _send(
        self,
        status: int,
        body: bytes,
        *,
        reason: str = "OK",
        headers: dict[str, str] | None = None,
        length: int | None = None,
    ) -> None:
        self.send_response(status, reason)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
