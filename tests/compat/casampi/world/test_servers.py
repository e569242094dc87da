"""What the client knows of its servers, and what it can set there."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from casampi.MPIEnvironment import MPIEnvironment

ROW = {
    "rank",
    "processor",
    "pid",
    "busy",
    "command",
    "command_start_time",
    "pong_pending",
    "ping_time",
    "pong_time",
    "timeout",
    "pong_checks",
}


# -- status ---------------------------------------------------------------------------------------


def test_the_status_of_all_servers(
    client: Any, servers: list[int], value: Callable[..., Any], until: Any
) -> None:
    client.push_command_request("'the last one'", True, servers)
    # A server that was kept from the core for a heartbeat has one ping more.
    until(lambda: all(row["pong_checks"] == 0 for row in client.get_server_status().values()))
    rows = client.get_server_status()
    assert list(rows) == servers
    for rank, row in rows.items():
        assert set(row) == ROW
        assert row["rank"] == rank
        assert row["processor"] == socket.gethostname()
        assert row["pid"] == value("os.getpid()", rank)
        assert row["busy"] is False
        assert row["command"] == "'the last one'"
        assert row["timeout"] is False
        assert row["pong_checks"] == 0
        assert abs(time.time() - row["ping_time"]) < 60


def test_the_status_of_one_server(client: Any, servers: list[int]) -> None:
    for rank in servers:
        row, whole = client.get_server_status(rank), client.get_server_status()[rank]
        assert {k: row[k] for k in ("rank", "pid", "busy")} == {k: whole[k] for k in ("rank", "pid", "busy")}
    assert client.get_server_status(server=servers[-1])["rank"] == servers[-1]


@pytest.mark.parametrize("unknown", [0, 99, -1, "1"], ids=repr)
def test_the_status_of_an_unknown_server(client: Any, caplog: Any, unknown: Any) -> None:
    assert client.get_server_status(unknown) is None
    assert f"no server {unknown!r}" in caplog.text


def test_the_status_of_a_busy_server(client: Any, servers: list[int], busy: int, gate: Any) -> None:
    row = client.get_server_status(1)
    assert row["busy"] is True
    assert row["command"] == gate.command
    assert 0 <= time.time() - row["command_start_time"] < 30
    assert row["timeout"] is False
    assert [r["busy"] for r in client.get_server_status().values()] == [True] + [False] * (len(servers) - 1)
    gate.open()
    client.get_command_response(busy, True)
    assert client.get_server_status(1)["busy"] is False
    assert client.get_server_status(1)["command"] == gate.command


def test_every_ping_is_answered_in_time(client: Any, servers: list[int], until: Any) -> None:
    def answered() -> bool:
        rows = client.get_server_status().values()
        return all(not r["pong_pending"] and r["pong_time"] >= r["ping_time"] for r in rows)

    until(answered)


# -- the watch ------------------------------------------------------------------------------------


def test_the_monitor_sees_the_same(
    client: Any, monitor: Any, servers: list[int], busy: int, gate: Any, caplog: Any
) -> None:
    monitor.start_services()
    assert monitor.get_server_rank_online() == servers
    assert monitor.get_server_rank_online(True) == servers
    assert monitor.get_server_rank_available() == servers[1:]
    assert monitor.get_server_rank_available(verbose=True) == servers[1:]
    assert monitor.get_server_timeout() == []
    assert set(monitor.get_server_status()) == set(servers)
    assert monitor.get_server_status(1)["busy"] is True
    assert monitor.get_server_status_keyword(1, "busy") is True
    assert monitor.get_server_status_keyword(1, "pid") == client.get_server_status(1)["pid"]
    assert caplog.records == []
    assert monitor.get_server_status_keyword(1, "nonesuch") is None
    assert "nonesuch" in caplog.text
    assert monitor.get_server_status_keyword(99, "busy") is None
    assert monitor.get_server_status(99) is None
    gate.open()
    client.get_command_response(busy, True)
    assert monitor.get_server_rank_available() == servers


# -- logs -----------------------------------------------------------------------------------------

QUIET = "DEBUG"  # at which the handling of commands is not told
LEVELS = [
    *["DEBUG", "DEBUG1", "DEBUG2"],
    *["NORMAL", "NORMAL1", "NORMAL2", "NORMAL3", "NORMAL4", "NORMAL5"],
    *["INFO", "INFO1", "INFO2", "INFO3", "INFO4", "INFO5"],
]


@pytest.mark.parametrize("level", LEVELS)
def test_log_levels(client: Any, servers: list[int], caplog: Any, level: str) -> None:
    client.set_log_level(level)
    assert caplog.records == []
    assert MPIEnvironment.command_handling_log_level == level
    responses = client.push_command_request("MPIEnvironment.command_handling_log_level", True, servers)
    assert [r["ret"] for r in responses] == [level] * len(servers)
    client.set_log_level(QUIET)


@pytest.mark.parametrize("level", ["", "nonsense", "normal", "DEBUG3", "INFO6", "WARN", 5, None], ids=repr)
def test_what_is_no_log_level_is_refused(client: Any, caplog: Any, level: Any) -> None:
    before = MPIEnvironment.command_handling_log_level
    assert client.set_log_level(level) is None
    assert "is no log level" in caplog.text
    assert MPIEnvironment.command_handling_log_level == before


def test_the_level_decides_whether_commands_are_told(client: Any, caplog: Any) -> None:
    client.set_log_level("NORMAL")
    client.push_command_request("'told'", True, 1)
    assert caplog.text.count("'told'") >= 1
    client.set_log_level(QUIET)
    client.push_command_request("'untold'", True, 1)
    assert "'untold'" not in caplog.text
    client.set_log_level(QUIET)


@pytest.mark.parametrize("mode", ["", "nonsense", "Unified", None, 1], ids=repr)
def test_what_is_no_log_mode_is_refused(client: Any, caplog: Any, mode: Any) -> None:
    assert client.set_log_mode(mode) is None
    assert "is no log mode" in caplog.text


def test_a_failure_is_logged_with_its_traceback(client: Any, caplog: Any, until: Any) -> None:
    (response,) = client.push_command_request("1 / 0", True, 1)
    until(lambda: caplog.records)  # whoever waits for the response may have it a moment before
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("mpiframe.casampi", logging.ERROR)
    assert f"command request {response['id']}" in record.getMessage()
    assert "ZeroDivisionError" in record.getMessage()


def test_what_commands_post_reaches_the_client(
    client: Any, servers: list[int], caplog: Any, until: Any
) -> None:
    client.push_command_request("casalog.post('hello there', 'WARN')", True, servers)
    until(lambda: caplog.text.count("hello there") == len(servers))
    assert sorted(r.rank for r in caplog.records) == servers
    assert {r.levelname for r in caplog.records} == {"WARNING"}


# -- resources ------------------------------------------------------------------------------------


def test_memory(client: Any, servers: list[int]) -> None:
    """A value for one target, a list for several. In KiB, but set in MiB."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 1024
    assert client.getMemoryTotal(False, 1) == whole
    assert client.getMemoryTotal(use_aipsrc=True, target_server=1) == whole
    assert client.getMemoryTotal(False, None) == whole
    client.setMemoryTotal(2048, servers)
    assert client.getMemoryTotal(True, 1) == 2048 * 1024
    assert client.getMemoryTotal(False, 1) == whole
    several = client.getMemoryTotal(True, servers)
    assert several == ([2048 * 1024] * len(servers) if len(servers) > 1 else 2048 * 1024)
    client.setMemoryTotal(1024, 1)
    assert client.getMemoryTotal(True, 1) == 1024 * 1024
    client.setMemoryFraction(25, 1)
    assert client.getMemoryTotal(True, 1) == pytest.approx(whole / 4)
    if len(servers) > 1:
        assert client.getMemoryTotal(True, 2) == 2048 * 1024
    client.setMemoryFraction(-1, servers)
    client.setMemoryTotal(-1, servers)
    assert client.getMemoryTotal(True, [1]) == whole


def test_cores(client: Any, servers: list[int]) -> None:
    assert client.getNumCPUs(False, 1) == os.cpu_count()
    client.setNumCPUs(3, servers)
    assert client.getNumCPUs(True, 1) == 3
    assert client.getNumCPUs(False, 1) == os.cpu_count()
    several = client.getNumCPUs(True, servers)
    assert several == ([3] * len(servers) if len(servers) > 1 else 3)
    client.setNumCPUs(-1, servers)
    assert client.getNumCPUs(True, 1) == os.cpu_count()


def test_threads_of_openmp(client: Any, servers: list[int], value: Callable[..., Any]) -> None:
    for target, ranks in ((1, [1]), (servers, servers)):
        threads = 2 + len(ranks)
        client.set_omp_num_threads(threads, target)
        for rank in ranks:
            assert value("casalog.ompGetNumThreads()", rank) == threads
            assert value("os.environ['OMP_NUM_THREADS']", rank) == str(threads)


def test_resources_of_an_unknown_server(client: Any, caplog: Any) -> None:
    assert client.getNumCPUs(True, 99) is None
    assert client.getMemoryTotal(True, [1, 99]) is None
    client.setNumCPUs(3, 99)
    client.set_omp_num_threads(3, (1,))
    assert len([r for r in caplog.records if "target_server=" in r.getMessage()]) == 4


# -- MPIEnvironment -------------------------------------------------------------------------------

EVERYWHERE = {
    "hostname": socket.gethostname(),
    "mpi_initialized": True,
    "mpi_world_size": int(os.environ.get("MPIFRAME_TEST_RANKS", "0")),
    "is_mpi_thread_safe": True,
    "mpi_thread_safe_level_str": "MPI THREAD MULTIPLE",
    "mpi_buffer_allocated": True,
    "is_mpi_enabled": True,
    "mpi_error_msg": "",
    "mpi_client_rank": 0,
}


@pytest.mark.parametrize("attribute", EVERYWHERE)
def test_what_the_environment_says_everywhere(client: Any, servers: list[int], attribute: str) -> None:
    assert getattr(MPIEnvironment, attribute) == EVERYWHERE[attribute]
    responses = client.push_command_request(f"MPIEnvironment.{attribute}", True, servers)
    assert [r["ret"] for r in responses] == [EVERYWHERE[attribute]] * len(servers)


@pytest.mark.parametrize(
    "attribute",
    [
        *["mpi_version_info", "mpi_version_str", "mpi_vendor_info", "mpi_vendor_str", "mpi_any_tag"],
        *["mpi_any_source", "mpi_thread_safe_level", "log_to_console"],
    ],
)
def test_what_is_the_same_everywhere(client: Any, servers: list[int], attribute: str) -> None:
    mine = getattr(MPIEnvironment, attribute)
    responses = client.push_command_request(f"MPIEnvironment.{attribute}", True, servers)
    assert [r["ret"] for r in responses] == [mine] * len(servers)


def test_who_is_who(client: Any, servers: list[int]) -> None:
    names = "is_mpi_client, mpi_execution_role, mpi_processor_rank, mpi_pid, processor_origin, mpi_info_msg"
    expression = "(" + ", ".join(f"MPIEnvironment.{name}" for name in names.split(", ")) + ")"
    is_client, role, rank, pid, origin, info = eval(expression)
    assert (is_client, role, rank, pid) == (True, "MPIClient", 0, os.getpid())
    assert origin.endswith(":MPIClient")
    assert "rank 0" in info
    assert MPIEnvironment.is_mpi_disabled_or_client() is True
    rows = client.get_server_status()
    for response in client.push_command_request(expression, True, servers):
        is_client, role, rank, pid, origin, info = response["ret"]
        assert (is_client, role, rank) == (False, "MPIServer", response["server"])
        assert pid == rows[rank]["pid"]
        assert origin == f"MPIServer-{rank}"
        assert f"rank {rank}" in info
    disabled = client.push_command_request("MPIEnvironment.is_mpi_disabled_or_client()", True, servers)
    assert [r["ret"] for r in disabled] == [False] * len(servers)


def test_when_a_server_counts_as_hung(client: Any, servers: list[int]) -> None:
    """As in the original: 42 s for 3 ranks, 84 s for 17."""
    assert MPIEnvironment.mpi_monitor_status_service_timeout == 42 + 3 * (len(servers) - 2)
    assert MPIEnvironment.mpi_monitor_status_service_heartbeat == 5


def test_the_version_of_mpi(client: Any) -> None:
    assert MPIEnvironment.mpi_version_info >= (3, 0)
    assert MPIEnvironment.mpi_version_str == ".".join(map(str, MPIEnvironment.mpi_version_info))
    name, version = MPIEnvironment.mpi_vendor_info
    assert name in MPIEnvironment.mpi_vendor_str
    assert ".".join(map(str, version)) in MPIEnvironment.mpi_vendor_str


def test_the_list_of_servers_is_a_copy(client: Any, servers: list[int]) -> None:
    mine = MPIEnvironment.mpi_server_rank_list()
    assert mine == servers
    mine.clear()
    assert MPIEnvironment.mpi_server_rank_list() == servers


def test_a_duplicate_of_the_world(client: Any, servers: list[int]) -> None:
    """All ranks make it together, and talk over it past the framework."""
    make = "mine = MPIEnvironment.mpi_comm_world_factory()"
    ids = client.push_command_request(make, False, servers)
    comm = MPIEnvironment.mpi_comm_world_factory()
    responses = client.get_command_response(ids, True)
    assert all(r["successful"] for r in responses), responses[0]["traceback"]
    assert comm.Get_size() == len(servers) + 1
    assert comm.Get_rank() == 0
    ids = client.push_command_request("mine.gather(mine.Get_rank())", False, servers)
    assert comm.gather(0) == [0, *servers]
    client.get_command_response(ids, True)
    ids = client.push_command_request("mine.Free()", False, servers)
    comm.Free()
    assert all(r["successful"] for r in client.get_command_response(ids, True))


# -- who may be what ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["MPICommandClient", "MPIInterface"])
def test_a_server_is_no_client(client: Any, servers: list[int], name: str) -> None:
    command = f"from casampi.{name} import {name}\n{name}()"
    for response in client.push_command_request(command, True, servers):
        assert "RuntimeError" in response["traceback"]
        assert "can only be instantiated at master MPI process" in response["traceback"]
        assert f"server {response['server']}" in response["traceback"]


def test_the_client_is_no_server(client: Any) -> None:
    from casampi.private.MPICommandServer import MPICommandServer

    with pytest.raises(RuntimeError, match="server"):
        MPICommandServer()


def test_a_servers_handle_on_itself(client: Any, value: Callable[..., Any]) -> None:
    command = """
from casampi.private.MPICommandServer import MPICommandServer
import casampi.private.start_mpi, casampi.private.server_run
server = MPICommandServer()
server.start_services()
server.serve()
MPICommandServer(start_services=True).omp_set_num_threads(7)
"""
    (response,) = client.push_command_request(command, True, 1)
    assert response["successful"], response["traceback"]
    assert value("casalog.ompGetNumThreads()") == 7


# -- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("MPICommandClient", "MPICommandClient"),
        ("MPIInterface", "MPIInterface"),
        ("MPIEnvironment", "MPIEnvironment"),
        ("private.MPIMonitorClient", "MPIMonitorClient"),
        ("private.MPICommandServer", "MPICommandServer"),
    ],
)
@pytest.mark.parametrize("package", ["mpi4casa", "mpiframe.compat.casampi", "mpiframe.compat.mpi4casa"])
@pytest.mark.parametrize("here", [True, False], ids=["client", "server"])
def test_every_package_name_means_the_same_objects(
    client: Any, value: Callable[..., Any], package: str, module: str, name: str, here: bool
) -> None:
    modules = [module, module.removeprefix("private.")] if package.endswith("mpi4casa") else [module]
    for other in modules:  # in CASA 5 they stood beside the others
        command = f"""
import importlib
one, two = importlib.import_module('casampi.{module}'), importlib.import_module('{package}.{other}')
same = one is two and one.{name} is two.{name}
"""
        if here:
            found: dict[str, Any] = {}
            exec(command, found)
            assert found["same"] is True
        else:
            (response,) = client.push_command_request(command, True, 1)
            assert response["successful"], response["traceback"]
            assert value("same") is True


def test_modules_that_are_not_there(client: Any) -> None:
    for name in (
        "casampi.nonesuch",
        "mpi4casa.nonesuch",
        "casampi.private.nonesuch",
        "casampi.MPIInterface.x",
    ):
        with pytest.raises(ModuleNotFoundError):
            __import__(name)
    with pytest.raises(ImportError):
        exec("from casampi.MPICommandClient import nonesuch")


def test_the_files_of_this_run_are_ours(client: Any) -> None:
    import casampi

    import mpiframe

    assert casampi.__name__ == "mpiframe.compat.casampi"
    assert casampi.__file__ is not None
    assert mpiframe.__file__ is not None
    assert Path(casampi.__file__).is_relative_to(Path(mpiframe.__file__).parent)
