"""The dashboard's web server: who gets in, what it tells, metrics that Prometheus' own parser reads."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import logging
import os
import socket
import stat
import threading
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mpiframe.errors import WorldError
from mpiframe.watch.dashboard.command_line import token_of
from mpiframe.watch.dashboard.metrics import exposition
from mpiframe.watch.dashboard.server import Dashboard

from .fake_world import NASTY, FakeWorld


@pytest.fixture
def world() -> FakeWorld:
    return FakeWorld(history=30)


@pytest.fixture
def dashboard(world: FakeWorld) -> Iterator[Dashboard]:
    one = Dashboard(world)
    one.start()
    yield one
    one.stop()


def ask(
    dashboard: Dashboard, path: str, headers: dict[str, str] | None = None, method: str = "GET"
) -> tuple[int, dict[str, str], str]:
    address = urllib.parse.urlsplit(dashboard.url)
    connection = http.client.HTTPConnection("127.0.0.1", address.port or 0, timeout=20)
    with contextlib.closing(connection):
        connection.request(method, path, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read().decode()


class Events:
    """A viewer: server-sent events, read one by one."""

    def __init__(self, dashboard: Dashboard, headers: dict[str, str] | None = None) -> None:
        address = urllib.parse.urlsplit(dashboard.url)
        self.connection = http.client.HTTPConnection("127.0.0.1", address.port or 0, timeout=20)
        self.connection.request("GET", f"/events?token={dashboard.token}", headers=headers or {})
        self.answer = self.connection.getresponse()

    def next(self) -> tuple[str, Any, str]:
        kind, data, id = "", None, ""
        while line := self.answer.readline().decode().rstrip("\n"):
            key, _, value = line.partition(": ")
            if key == "event":
                kind = value
            elif key == "id":
                id = value
            elif key == "data":
                data = json.loads(value)
        return kind, data, id

    def close(self) -> None:
        self.connection.close()


# -- who may -------------------------------------------------------------------------------------------


def test_it_listens_on_loopback_alone_and_the_address_has_a_long_token(dashboard: Dashboard) -> None:
    address = urllib.parse.urlsplit(dashboard.url)
    assert address.hostname == "127.0.0.1"
    assert len(dashboard.token) >= 40
    port = address.port or 0
    inodes = [
        line.split()[1]
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        if line.split()[3] == "0A" and line.split()[1].endswith(f":{port:04X}")
    ]
    assert inodes == [f"0100007F:{port:04X}"]


@pytest.mark.parametrize(
    "path", ["/", "/events", "/metrics", "/nothing", "/?token=", "/?token=wrong", "/metrics?token=ä"]
)
def test_without_the_token_nothing_is_told_but_what_to_do(dashboard: Dashboard, path: str) -> None:
    status, headers, body = ask(dashboard, urllib.parse.quote(path, safe="/?="))
    assert status == 403
    assert "token" in body
    assert "mpiframe dashboard" in body
    assert "survey" not in body
    assert "set-cookie" not in headers


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Basic {token}"},
        {"Authorization": "{token}"},
        {"Cookie": "mpiframe_{port}=wrong"},
        {"Cookie": "mpiframe_{port}={token}"},
        {"Cookie": "mpiframe={token}"},
    ],
)
def test_what_is_nearly_right_is_wrong(dashboard: Dashboard, headers: dict[str, str]) -> None:
    port = str(urllib.parse.urlsplit(dashboard.url).port)
    given = {k: v.replace("{token}", dashboard.token).replace("{port}", port) for k, v in headers.items()}
    assert ask(dashboard, "/metrics", given)[0] == 403


def test_the_token_of_another_dashboard_is_wrong(dashboard: Dashboard) -> None:
    other = Dashboard(FakeWorld())
    other.start()
    try:
        assert ask(dashboard, f"/?token={other.token}")[0] == 403
        assert ask(other, f"/?token={other.token}")[0] == 200
    finally:
        other.stop()


def test_the_page_gives_a_cookie_that_no_script_sees_and_no_other_site_sends(dashboard: Dashboard) -> None:
    status, headers, _ = ask(dashboard, f"/?token={dashboard.token}")
    assert status == 200
    cookie = headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert dashboard.token not in cookie
    name = cookie.partition(";")[0]
    assert ask(dashboard, "/", {"Cookie": name})[0] == 200
    assert ask(dashboard, "/metrics", {"Cookie": name})[0] == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1.evil.example:{port}", "", "[::2]:{port}"]
)
def test_a_foreign_name_that_leads_here_is_refused_though_the_token_is_right(
    dashboard: Dashboard, host: str
) -> None:
    host = host.replace("{port}", str(urllib.parse.urlsplit(dashboard.url).port))
    status, _, body = ask(dashboard, f"/metrics?token={dashboard.token}", {"Host": host})
    assert status == 403
    assert "127.0.0.1" in body


@pytest.mark.parametrize("host", ["localhost:9999", "127.0.0.1", "LOCALHOST", "[::1]:80"])
def test_through_a_tunnel_the_port_may_be_another(dashboard: Dashboard, host: str) -> None:
    assert ask(dashboard, f"/metrics?token={dashboard.token}", {"Host": host})[0] == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_what_another_site_asks_for_is_refused_though_a_cookie_came_along(
    dashboard: Dashboard, site: str
) -> None:
    cookie = ask(dashboard, f"/?token={dashboard.token}")[1]["set-cookie"].partition(";")[0]
    assert ask(dashboard, "/metrics", {"Cookie": cookie, "Sec-Fetch-Site": site})[0] == 403
    assert ask(dashboard, "/metrics", {"Cookie": cookie, "Sec-Fetch-Site": "same-origin"})[0] == 200


@pytest.mark.parametrize("path", ["/", "/page.js", "/nothing", "/metrics", "/?token=wrong"])
def test_each_answer_forbids_what_is_foreign(dashboard: Dashboard, path: str) -> None:
    token = "" if "token" in path else f"?token={dashboard.token}"
    _, headers, _ = ask(dashboard, path + token)
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "path", ["/../server.py", "/%2e%2e/server.py", "/page/page.js", "/refused.html", "/page.js%00"]
)
def test_no_other_file_can_be_had(dashboard: Dashboard, path: str) -> None:
    assert ask(dashboard, f"{path}?token={dashboard.token}")[0] in (400, 404)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_there_is_nothing_to_be_written(dashboard: Dashboard, method: str) -> None:
    assert ask(dashboard, f"/?token={dashboard.token}", method=method)[0] == 405


def test_rubbish_harms_nobody_and_the_token_is_in_no_log(
    dashboard: Dashboard, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    port = urllib.parse.urlsplit(dashboard.url).port or 0
    for rubbish in (
        b"\x00" * 100,
        b"GET /?token=" + dashboard.token.encode() + b" HTTP/9\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 5000,
    ):
        with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
            sock.sendall(rubbish)
            with contextlib.suppress(OSError):
                sock.recv(1000)
    ask(dashboard, f"/?token={dashboard.token}")
    ask(dashboard, f"/metrics?token={dashboard.token}")
    assert ask(dashboard, f"/?token={dashboard.token}")[0] == 200
    out, err = capfd.readouterr()
    assert dashboard.token not in out + err + caplog.text


# -- events ----------------------------------------------------------------------------------------------


def test_a_viewer_is_told_all_that_happened_and_each_thing_once(dashboard: Dashboard) -> None:
    viewer = Events(dashboard)
    seen: list[int] = []
    for _ in range(4):
        kind, now, id = viewer.next()
        assert kind == "snapshot"
        assert id == str(now["seq"])
        seen += [one["seq"] for one in [*now["spans"], *now["output"]]]
    viewer.close()
    assert sorted(seen) == list(range(1, now["seq"] + 1))


def test_who_comes_back_is_told_what_was_missed(dashboard: Dashboard) -> None:
    viewer = Events(dashboard)
    _, first, id = viewer.next()
    viewer.close()
    deadline = time.monotonic() + 60
    again = Events(dashboard, {"Last-Event-ID": id})
    found: list[int] = []
    while not found and time.monotonic() < deadline:
        _, now, _ = again.next()
        found = [one["seq"] for one in now["spans"]]
    again.close()
    assert found[0] > first["seq"]


def test_many_viewers_cost_the_world_one_look(dashboard: Dashboard, world: FakeWorld) -> None:
    viewers = [Events(dashboard) for _ in range(12)]
    for viewer in viewers:
        viewer.next()
    before, begun = world.asked, time.monotonic()
    for _ in range(4):
        for viewer in viewers:
            viewer.next()
    looks, seconds = world.asked - before, time.monotonic() - begun
    for viewer in viewers:
        viewer.close()
    assert looks <= seconds / 0.5 + 3


def test_the_end_of_the_world_is_told_and_ends_the_server(dashboard: Dashboard, world: FakeWorld) -> None:
    viewer = Events(dashboard)
    viewer.next()
    world.end("It ended with status 0.")
    kind = ""
    while kind != "gone":
        kind, content, _ = viewer.next()
    assert content == {"message": "It ended with status 0."}
    viewer.close()
    assert dashboard._thread is not None
    dashboard._thread.join(20)
    assert not dashboard._thread.is_alive()
    assert dashboard.gone == "It ended with status 0."


def test_the_end_is_noticed_though_nobody_looks(world: FakeWorld) -> None:
    dashboard = Dashboard(world)
    dashboard.start()
    world.end()
    assert dashboard._thread is not None
    dashboard._thread.join(30)
    assert not dashboard._thread.is_alive()
    assert dashboard.gone


def test_a_port_that_is_taken_is_said_so(dashboard: Dashboard) -> None:
    port = urllib.parse.urlsplit(dashboard.url).port or 0
    with pytest.raises(WorldError, match=f"port {port} of 127.0.0.1 is taken; name another"):
        Dashboard(FakeWorld(), port).start()


def test_it_leaves_no_thread_and_no_descriptor(world: FakeWorld) -> None:
    def count() -> tuple[int, int]:
        return threading.active_count(), len(os.listdir("/proc/self/fd"))

    def one() -> None:
        dashboard = Dashboard(world)
        dashboard.start()
        viewer = Events(dashboard)
        viewer.next()
        viewer.close()
        dashboard.stop()

    one()  # what is opened once, is
    before = count()
    for _ in range(3):
        one()
    assert count() == before


# -- metrics ------------------------------------------------------------------------------------------


def metrics_of(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.mark.parametrize("how", ["bearer", "query"])
def test_prometheus_reads_what_the_world_says(dashboard: Dashboard, world: FakeWorld, how: str) -> None:
    if how == "bearer":
        status, headers, body = ask(dashboard, "/metrics", {"Authorization": f"Bearer {dashboard.token}"})
    else:
        status, headers, body = ask(dashboard, f"/metrics?token={dashboard.token}")
    assert status == 200
    assert headers["content-type"].startswith("text/plain; version=0.0.4")
    seen = metrics_of(body)
    done = seen["mpiframe_commands_total", (("status", "done"),)]
    assert done > 10
    assert sum(v for (name, _), v in seen.items() if name == "mpiframe_server_commands_done_total") == done
    assert seen["mpiframe_shared_queue_length", ()] == 12
    assert sum(v for (name, _), v in seen.items() if name == "mpiframe_servers") == 4
    assert not [name for name, _ in seen if name.startswith(("python_", "process_"))]


def test_the_metrics_are_the_figures_of_the_snapshot(world: FakeWorld) -> None:
    now = world(0)
    now["world"]["name"] = 'sur"vey\n\\'
    now["servers"][0]["rss"] = None
    now["servers"][1]["state"] = "lost"
    now["run_seconds"] = {"bounds": [0.1, 1.0], "counts": [3, 4, 5], "sum": 7.5}
    seen = metrics_of(exposition(now).decode())
    assert seen["mpiframe_command_run_seconds_bucket", (("le", "0.1"),)] == 3
    assert seen["mpiframe_command_run_seconds_bucket", (("le", "1.0"),)] == 7
    assert seen["mpiframe_command_run_seconds_bucket", (("le", "+Inf"),)] == 12
    assert seen["mpiframe_command_run_seconds_count", ()] == 12
    assert seen["mpiframe_command_run_seconds_sum", ()] == 7.5
    assert seen["mpiframe_world_info", (("mpi", "Open MPI 5.0.8"), ("name", 'sur"vey\n\\'))] == 1
    assert seen["mpiframe_world_start_time_seconds", ()] == now["world"]["started"]
    assert ("mpiframe_server_resident_bytes", (("host", "node17"), ("server", "1"))) not in seen
    assert seen["mpiframe_servers", (("state", "lost"),)] == 1
    for server in now["servers"]:
        labels = (("host", "node17"), ("server", str(server["rank"])))
        assert seen["mpiframe_server_busy_seconds_total", labels] == pytest.approx(server["busy"])
        assert seen["mpiframe_server_queue_length", labels] == server["queued"]
    assert seen["mpiframe_session_queued", (("session", "ann-1"),)] == 3


def test_names_that_look_like_metrics_are_labels_all_the_same() -> None:
    now = FakeWorld(nasty=True, history=20)(0)
    seen = metrics_of(exposition(now).decode())
    assert ("mpiframe_session_queued", (("session", NASTY),)) in seen


def test_a_world_that_has_gone_is_no_success_for_a_scraper(dashboard: Dashboard, world: FakeWorld) -> None:
    world.end()
    with contextlib.suppress(ConnectionError, http.client.HTTPException):
        status, _, body = ask(dashboard, f"/metrics?token={dashboard.token}")
        assert status == 503
        assert "gone" in body


# -- a token that lasts ---------------------------------------------------------------------------------


def test_a_token_file_is_made_for_its_owner_alone_and_read_the_next_time(tmp_path: Path) -> None:
    path = tmp_path / "token"
    token = token_of(path)
    assert len(token) >= 40
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert token_of(path) == token


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_token_file_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "token"
    token_of(path)
    path.chmod(mode)
    with pytest.raises(WorldError, match="chmod 600"):
        token_of(path)


@pytest.mark.parametrize("text", ["", "short", "a" * 30 + "&b", "ä" * 30])
def test_a_token_file_that_holds_none_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "token"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(WorldError, match="token"):
        token_of(path)


def test_a_token_file_that_cannot_be_made_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(WorldError, match="No such file"):
        token_of(tmp_path / "no" / "folder")


def test_a_world_that_does_not_answer_does_not_hold_the_dashboard(world: FakeWorld) -> None:
    stuck = threading.Event()

    def source(since: int) -> dict[str, Any]:
        if since:
            stuck.wait(60)
        return world(since)

    dashboard = Dashboard(source)
    dashboard.start()
    viewer = Events(dashboard)
    viewer.next()
    begun = time.monotonic()
    dashboard.stop()
    assert time.monotonic() - begun < 15
    assert dashboard._thread is not None
    assert not dashboard._thread.is_alive()
    viewer.close()
    stuck.set()


def test_what_is_wrong_with_a_source_is_told_and_does_not_hang() -> None:
    def source(since: int) -> dict[str, Any]:
        raise KeyError("a bug")

    dashboard = Dashboard(source)
    with pytest.raises(KeyError, match="a bug"):
        asyncio.run(dashboard.serve())
