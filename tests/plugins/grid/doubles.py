"""Doubles of services that cannot be had: they speak the protocols of the real ones, over real sockets.

They are no such services: what they hold is a dictionary, and nothing is staged. The XML-RPC stager and
StageIT run at ASTRON, for its users only; servers of the WLCG Tape REST interface (dCache, StoRM, CTA) are
not packaged.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import ssl
import threading
import xmlrpc.client
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

Answer = tuple[int, dict[str, str], bytes]


class Server:
    """An HTTP server on a free loopback port whose answers are made by `answer`; keeps what it was asked."""

    def __init__(self, answer: Callable[[Request], Answer], context: ssl.SSLContext | None = None) -> None:
        self.requests: list[Request] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def handle_one(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                request = Request(self.command, self.path, dict(self.headers), self.rfile.read(length))
                outer.requests.append(request)
                status, headers, body = answer(request)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if "Content-Length" not in headers:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_MKCOL = handle_one

            def log_message(self, *_: Any) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:  # clients that do not trust a certificate leave
                pass

        self._server = Quiet(("127.0.0.1", 0), Handler)
        if context is not None:
            # The handshake is made by the thread of the connection, not by the one that accepts.
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.port = self._server.server_address[1]
        self.url = f"{'https' if context else 'http'}://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


class Request:
    """What was asked."""

    def __init__(self, method: str, path: str, headers: dict[str, str], body: bytes) -> None:
        self.method, self.headers, self.body = method, {k.lower(): v for k, v in headers.items()}, body
        self.path = urlsplit(path).path
        self.query = parse_qs(urlsplit(path).query)


@contextlib.contextmanager
def serving(answer: Callable[[Request], Answer], context: ssl.SSLContext | None = None) -> Iterator[Server]:
    server = Server(answer, context)
    try:
        yield server
    finally:
        server.stop()


def as_json(value: Any, status: int = 200) -> Answer:
    return status, {"Content-Type": "application/json"}, json.dumps(value).encode()


class Stager:
    """A double of the archive's XML-RPC stager: one more file is there each time one asks."""

    user, password = "somebody", "pass=word with: all"

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.wanted: dict[int, list[str]] = {}
        self.online: dict[int, int] = {}
        self.aborted: set[int] = set()
        self.raw: bytes | None = None

    def __call__(self, request: Request) -> Answer:
        expected = "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        if request.path != "/service-public/xmlrpc":
            return 404, {}, b""
        if request.headers.get("authorization") != expected:
            return 401, {"WWW-Authenticate": "Basic"}, b"who is that"
        if self.raw is not None:
            return 200, {"Content-Type": "text/xml"}, self.raw
        arguments, name = xmlrpc.client.loads(request.body)
        self.calls.append((str(name), arguments))
        try:
            value = getattr(self, str(name).partition(".")[2])(*arguments)
            text = xmlrpc.client.dumps((value,), methodresponse=True, allow_none=True)
        except (AttributeError, KeyError) as error:
            fault = xmlrpc.client.Fault(1, f"{type(error).__name__} {error} for {self.password}")
            text = xmlrpc.client.dumps(fault)
        return 200, {"Content-Type": "text/xml"}, text.encode()

    def add_getid(self, surls: list[str], notify: bool = True) -> int:
        number = 100 + len(self.wanted)
        self.wanted[number], self.online[number] = surls, 0
        return number

    def getstatus(self, number: int) -> str:
        total, there = len(self.wanted[number]), self.online[number]
        self.online[number] = min(total, there + 1)
        if number in self.aborted:
            return "aborted"
        return "success" if there == total else "in progress" if there else "scheduled"

    def getstagedurls(self, number: int) -> list[str]:
        return self.wanted[number][: self.online[number]]

    def gettoken(self, number: int) -> str:
        return f"srm-{number}"

    def abort(self, number: int) -> bool:
        self.aborted.add(number)
        return True

    def reschedule(self, number: int) -> bool:
        self.aborted.discard(number)
        return True

    def getprogress(self) -> dict[str, dict[str, Any]]:
        return {str(number): {"Status": "in progress", "Files": len(s)} for number, s in self.wanted.items()}

    def getsrmstorageinfo(self) -> dict[str, str]:
        return {"sara": "10 TB"}


class StageIt:
    """A double of StageIT: REST and GraphQL; one more file is there each time one asks."""

    token = "0123456789abcdef-token"

    def __init__(self) -> None:
        self.requests: dict[int, dict[str, Any]] = {}
        self.errors: dict[str, str] = {}

    def __call__(self, request: Request) -> Answer:
        if request.headers.get("authorization") != f"Token {self.token}":
            return as_json({"detail": f"Invalid token {request.headers.get('authorization')}"}, 401)
        path = request.path.removeprefix("/stageit/api/staging/")
        data = json.loads(request.body) if request.body else {}
        if path == "graphql/":
            return self.graphql(data["query"])
        found = re.fullmatch(r"requests/(?:(\d+)/(\w+/)?)?", path)
        if found is None:
            return as_json({"detail": "Not found."}, 404)
        if found[1] is None:
            assert request.method == "POST"
            assert (data["request_type"], type(data["notify"])) == ("stage", bool)
            number = 7000 + len(self.requests)
            self.requests[number] = {"surls": data["surls"], "online": 0, "status": "new"}
            return as_json({"id": number}, 201)
        number = int(found[1])
        if number not in self.requests:
            return as_json({"detail": "Not found."}, 404)
        one = self.requests[number]
        if (request.method, found[2]) == ("PUT", "abort/"):
            one["status"] = "aborted"
            return 202, {}, b""
        if (request.method, found[2]) == ("PATCH", None):
            assert data == {"current_status_code": "S"}
            one["status"] = "scheduled"
            return as_json({"id": number})
        if (request.method, found[2]) == ("GET", "convert2webdav/"):
            return as_json([surl.replace("srm://", "https://") for surl in one["surls"]])
        if (request.method, found[2]) == ("GET", "convert2gridftp/"):
            return as_json([surl.replace("srm://", "gsiftp://") for surl in one["surls"]])
        return as_json({"detail": "Method not allowed."}, 405)

    def graphql(self, query: str) -> Answer:
        try:
            (name, arguments, fields), *others = parse_graphql(query)
            assert not others
        except (ValueError, AssertionError) as error:
            return as_json({"errors": [{"message": f"Syntax Error: {error}"}]}, 400)
        if name == "request":
            one = self.requests.get(int(arguments["id"]))
            return as_json({"data": {"request": one and select(self.node(int(arguments["id"])), fields)}})
        nodes = [self.node(number) for number in self.requests]
        code = {"S": "scheduled"}
        if "currentStatusCode" in arguments:
            nodes = [n for n in nodes if n["currentStatus"] == code[arguments["currentStatusCode"]]]
        if "currentStatusCode_Ne" in arguments:
            nodes = [n for n in nodes if n["currentStatus"] != code[arguments["currentStatusCode_Ne"]]]
        assert re.match(r'"\d{4}-\d\d-\d\dT', arguments["when_Gte"])
        answer = {"edges": [{"node": node} for node in nodes]}
        return as_json({"data": {"requests": select(answer, fields)}})

    def node(self, number: int) -> dict[str, Any]:
        one = self.requests[number]
        wanted = [surl for surl in one["surls"] if surl not in self.errors]
        online, left = wanted[: one["online"]], wanted[one["online"] :]
        status = one["status"]
        if status not in ("aborted", "new"):
            status = "in progress" if left else "partial success" if self.errors else "success"
        one["online"] += 1
        if one["status"] == "new":
            one["status"] = "scheduled"
            response = None
        else:
            response = json.dumps({"online": online, "progressing": left, "errors": self.errors})
        return {
            "id": str(number),
            "currentStatus": status,
            "currentStatusCode": status[0].upper(),
            "requestToken": f"srm-{number}",
            "requestType": "stage",
            "when": "2026-01-01T00:00:00",
            "response": response,
            "surls": [{"surl": surl} for surl in one["surls"]],
            "macaroons": [
                {"content": "MDAxY2xvY2F0aW9u", "validUntil": "2026-12-01", "ltaSite": {"name": "SURF"}}
            ],
        }


def parse_graphql(text: str) -> list[tuple[str, dict[str, str], Any]]:
    """The fields of a query: name, arguments, fields below. ValueError for what is no query."""
    words = re.findall(r'"[^"]*"|\w[\w.+-]*|[{}():,]', text)
    if "".join(words) != re.sub(r"\s", "", text):
        raise ValueError(f"unexpected characters in {text!r}")

    def expect(word: str) -> None:
        if not words or words.pop(0) != word:
            raise ValueError(f"expected {word}")

    def block() -> list[tuple[str, dict[str, str], Any]]:
        expect("{")
        fields = []
        while words and words[0] != "}":
            name, arguments = words.pop(0), {}
            if words[0] == "(":
                words.pop(0)
                while words[0] != ")":
                    key = words.pop(0)
                    expect(":")
                    arguments[key] = words.pop(0)
                    if words[0] == ",":
                        words.pop(0)
                words.pop(0)
            fields.append((name, arguments, block() if words[0] == "{" else None))
            if words and words[0] == ",":
                words.pop(0)
        expect("}")
        return fields

    found = block()
    if words:
        raise ValueError(f"unexpected {words[0]}")
    return found


def select(value: Any, fields: Any) -> Any:
    """What was asked for of an answer, as GraphQL gives it."""
    if isinstance(value, list):
        return [select(one, fields) for one in value]
    if fields is None:
        assert not isinstance(value, dict), "GraphQL wants the fields of an object named"
        return value
    return {name: select(value[name], below) for name, _, below in fields}


class TapeRest:
    """A double of the WLCG Tape REST interface, version 1, as gfal2-http uses it.

    A file is on tape until it was asked about `polls` times after it was asked for.
    """

    def __init__(self, files: dict[str, bytes], polls: int = 2) -> None:
        self.files, self.polls = files, polls
        self.on_disk: set[str] = set()
        self.wanted: dict[str, list[str]] = {}
        self.asked: dict[str, int] = {}
        self.released: list[list[str]] = []
        self.url = ""

    def __call__(self, request: Request) -> Answer:
        path = request.path.rstrip("/")
        data = json.loads(request.body) if request.body else {}
        if path == "/.well-known/wlcg-tape-rest-api":
            endpoints = [{"uri": f"{self.url}/api/v1", "version": "v1"}]
            return as_json({"sitename": "double", "description": "a double", "endpoints": endpoints})
        if path == "/api/v1/archiveinfo":
            return as_json([self.locality(one) for one in data["paths"]])
        if path == "/api/v1/stage":
            number = f"request-{len(self.wanted)}"
            self.wanted[number] = [one["path"] for one in data["files"]]
            self.asked[number] = 0
            return as_json({"requestId": number}, 201)
        if found := re.fullmatch("/api/v1/stage/([^/]+)", path):
            return self.progress(found[1])
        if found := re.fullmatch("/api/v1/(release|stage)/([^/]+)(/cancel)?", path):
            self.released.append(data.get("paths", []))
            return 200, {}, b""
        return 404, {}, b""

    def locality(self, path: str) -> dict[str, str]:
        if path not in self.files:
            return {"path": path, "error": "No such file"}
        return {"path": path, "locality": "DISK_AND_TAPE" if path in self.on_disk else "TAPE"}

    def progress(self, number: str) -> Answer:
        self.asked[number] += 1
        there = self.asked[number] >= self.polls
        if there:
            self.on_disk.update(set(self.wanted[number]) & set(self.files))
        files = [
            {"path": path, "onDisk": path in self.on_disk, "state": "COMPLETED" if there else "STARTED"}
            if path in self.files
            else {"path": path, "onDisk": False, "state": "FAILED", "error": "No such file"}
            for path in self.wanted[number]
        ]
        return as_json({"id": number, "createdAt": 1, "startedAt": 1, "files": files})
