"""`MPIInterface`, as casatasks' parallel imaging uses it."""

from __future__ import annotations

import os
import socket
from typing import Any

import pytest
from casampi.MPIInterface import MPIInterface


@pytest.fixture
def cluster(interface: Any) -> Any:
    return interface._cluster


# -- the cluster ----------------------------------------------------------------------------------


def test_there_is_one_cluster(interface: Any) -> None:
    assert MPIInterface.getCluster() is interface
    assert MPIInterface.getCluster() is MPIInterface.getCluster()
    assert interface.isClusterRunning() is True
    assert MPIInterface().isClusterRunning() is True


def test_starting_what_is_started_does_nothing(interface: Any, client: Any, caplog: Any) -> None:
    interface.start_cluster()
    interface.init_cluster()
    assert caplog.records == []
    interface.init_cluster("hosts.txt", "project")
    assert "not used" in caplog.text
    assert client.get_lifecyle_state() == 1


def test_engines_and_nodes(cluster: Any, servers: list[int]) -> None:
    assert cluster.get_engines() == servers
    assert cluster.get_nodes() == [socket.gethostname()]


def test_do_and_record(interface: Any, client: Any, servers: list[int]) -> None:
    ids = interface.do_and_record("MPIEnvironment.mpi_processor_rank", servers, "a group", "a.ms")
    assert [r["ret"] for r in client.get_command_response(ids, True)] == servers
    ids = interface.do_and_record("MPIEnvironment.mpi_processor_rank", id=1)
    assert [r["ret"] for r in client.get_command_response(ids, True)] == [1]
    (id,) = interface.do_and_record("MPIEnvironment.mpi_processor_rank")
    assert client.get_command_response(id, True)[0]["ret"] == servers[-1]
    assert interface.do_and_record("1", 99) is None


def test_where_a_server_works(interface: Any, servers: list[int], caplog: Any) -> None:
    for rank in servers:
        assert interface.get_engine_store(rank) == os.getcwd()
    assert interface.get_engine_store(99) is None
    assert "no server 99" in caplog.text


def test_log_settings(interface: Any, client: Any, value: Any, caplog: Any) -> None:
    interface.set_log_level("INFO2")
    assert value("MPIEnvironment.command_handling_log_level") == "INFO2"
    interface.set_log_level("DEBUG")
    MPIInterface.set_log_mode("unified")
    assert caplog.records == [] or all(r.levelname == "INFO" for r in caplog.records)
    interface.set_log_level("nonsense")
    MPIInterface.set_log_mode("nonsense")
    assert "no log level" in caplog.text
    assert "no log mode" in caplog.text
    MPIInterface._log_mode = "unified"


# -- the table of what there was ------------------------------------------------------------------

HEAD = [
    "JOB ID",
    "SERVER",
    "HOSTNAME",
    "QUEUE STATUS",
    "COMMAND",
    "ELAPSED TIME (s)",
    "EXECUTION STATUS",
]


def test_the_table_of_requests(
    interface: Any, client: Any, busy: int, gate: Any, capsys: Any, servers: list[int]
) -> None:
    (held,) = client.push_command_request("'held'", False, 1)
    table = interface.get_status()
    rows = {row[0]: row for row in table[1:]}
    host = socket.gethostname()
    assert table[0] == HEAD
    assert all(len(row) == 7 for row in table)
    assert all(type(cell) is str for row in table for cell in row)
    assert rows[str(busy)][:5] == [str(busy), "1", host, "request sent", gate.command]
    assert rows[str(busy)][5:] == ["", "not finished"]
    assert rows[str(held)][:5] == [str(held), "1", host, "holding queue", "'held'"]
    capsys.readouterr()
    gate.open()
    (failed,) = client.push_command_request("1 / 0", False, 1)
    client.get_command_response([busy, held, failed], True)
    rows = {row[0]: row for row in interface.get_status()[1:]}
    ends = [(rows[str(id)][3], rows[str(id)][6]) for id in (busy, held, failed)]
    assert ends == [("response received", end) for end in ("completed", "completed", "exception raised")]
    assert all(float(rows[str(id)][5]) >= 0 for id in (busy, held, failed))
    printed = capsys.readouterr().out
    assert all(word in printed for word in HEAD)
    (line,) = [line for line in printed.splitlines() if line.startswith(f"| {failed} ")]
    assert [cell.strip() for cell in line.strip("|").split("|")] == rows[str(failed)]


def test_the_table_shows_what_waits_for_any_server(
    interface: Any, client: Any, gates: Any, servers: list[int]
) -> None:
    made = [gates() for _ in servers]
    ids = [client.push_command_request(gate.command)[0] for gate in made]
    (waiting,) = client.push_command_request("'waits'")
    rows = {row[0]: row for row in interface.get_status()[1:]}
    assert rows[str(waiting)][1:5] == ["", "", "holding queue", "'waits'"]
    assert rows[str(waiting)][5] == ""
    for gate in made:
        gate.open()
    client.get_command_response([*ids, waiting], True)


# -- running --------------------------------------------------------------------------------------


def test_one_command_on_every_server(cluster: Any, client: Any, servers: list[int]) -> None:
    command = "MPIEnvironment.mpi_processor_rank"
    assert [r["ret"] for r in cluster.pgc(command)] == servers
    assert [r["ret"] for r in cluster.pgc(command, block=True)] == servers
    for ids in (cluster.pgc(command, block=False), cluster.pgc(command, False)):
        assert [type(id) for id in ids] == [int] * len(servers)
        assert [r["ret"] for r in client.get_command_response(ids, True)] == servers


def test_a_command_for_each_of_some_servers(cluster: Any, client: Any, servers: list[int]) -> None:
    jobs = {rank: f"'job of {rank}'" for rank in servers[::-1]}
    rets = [f"job of {rank}" for rank in servers[::-1]]
    assert [r["ret"] for r in cluster.pgc(jobs)] == rets
    ids = cluster.pgc(jobs, block=False)
    responses = client.get_command_response(ids, True)
    assert [(r["server"], r["ret"]) for r in responses] == list(zip(servers[::-1], rets, strict=True))
    assert [r["server"] for r in cluster.pgc({servers[-1]: "1"})] == [servers[-1]]


def test_what_pgc_cannot_run(cluster: Any, caplog: Any) -> None:
    assert cluster.pgc("1 +") is None
    assert cluster.pgc({99: "1"}) is None
    assert "no server 99" in caplog.text
    with pytest.raises(TypeError, match="blocking"):
        cluster.pgc("1", blocking=True)
    failed = cluster.pgc("1 / 0")
    assert all(r["successful"] is False for r in failed)


def test_odo_and_execute(cluster: Any, client: Any, servers: list[int]) -> None:
    command = "MPIEnvironment.mpi_processor_rank"
    for nodes in (1, [1], servers):
        ranks = nodes if isinstance(nodes, list) else [nodes]
        ids = cluster.odo(command, nodes)
        assert [type(id) for id in ids] == [int] * len(ranks)
        assert [r["ret"] for r in client.get_command_response(ids, True)] == ranks
        assert [r["ret"] for r in cluster.execute(command, nodes)] == ranks
    assert cluster.odo(command, 99) is None
    assert cluster.execute(command, [1, 99]) is None


# -- variables ------------------------------------------------------------------------------------


@pytest.mark.parametrize("everybody", [None, "all", "list", "nothing"])
def test_variables_on_all_servers(cluster: Any, servers: list[int], everybody: Any) -> None:
    value = {"of": everybody}
    options = {"targets": servers if everybody == "list" else everybody} if everybody != "nothing" else {}
    responses = cluster.push({"mine": value, "other": 2}, **options)
    assert [(r["server"], r["successful"]) for r in responses] == [(rank, True) for rank in servers]
    assert cluster.pull("mine", **options) == dict.fromkeys(servers, value)
    assert cluster.pull("other") == dict.fromkeys(servers, 2)


def test_variables_on_some_servers(cluster: Any, servers: list[int]) -> None:
    last = servers[-1]
    cluster.push({"mine": "everywhere"})
    cluster.push({"mine": "there"}, last)
    cluster.push({"mine": "there"}, [last])
    assert cluster.pull("mine", last) == {last: "there"}
    assert cluster.pull("mine", [last]) == {last: "there"}
    assert cluster.pull("mine") == {rank: "there" if rank == last else "everywhere" for rank in servers}


def test_variables_that_are_not_there(cluster: Any, servers: list[int], caplog: Any) -> None:
    assert cluster.pull("never_set") == dict.fromkeys(servers)
    assert "NameError" in caplog.text
    assert not cluster.pull("never_set", 99)
    assert cluster.push({"mine": 1}, 99) is None
    assert "no server 99" in caplog.text


# -- jobs -----------------------------------------------------------------------------------------


def test_jobs_that_run_or_have_ended(cluster: Any, busy: int, gate: Any, client: Any) -> None:
    (quick,) = client.push_command_request("1", False, 1)
    assert cluster.check_job(busy) is False
    assert cluster.check_job([busy]) is False
    assert cluster.check_job([[busy], [quick]]) is False
    gate.open()
    client.get_command_response([busy, quick], True)
    assert cluster.check_job(busy) is True
    assert cluster.check_job([busy, quick]) is True
    assert cluster.check_job([[busy], [quick]]) is True
    assert cluster.check_job([busy], verbose=False) is True


def test_jobs_that_failed(cluster: Any, client: Any, servers: list[int]) -> None:
    """One exception with every traceback, and the server of each."""
    ids = cluster.odo("raise ValueError(MPIEnvironment.mpi_processor_rank * 111)", servers)
    ids += cluster.odo("1", 1)
    client.get_command_response(ids, True)
    with pytest.raises(Exception, match="Exception executing command in server") as raised:
        cluster.check_job(ids)
    for rank in servers:
        assert f"server {rank}: " in str(raised.value)
        assert f"ValueError: {rank * 111}" in str(raised.value)
    assert cluster.check_job(ids[-1]) is True
    with pytest.raises(Exception, match="ValueError: 111"):
        cluster.check_job([[ids[0]]])


def test_a_job_that_failed_beside_one_that_runs(cluster: Any, client: Any, busy: int, gate: Any) -> None:
    """The failure is told at once where it can be."""
    (held,) = client.push_command_request("1 / 0", False, 1)
    assert cluster.check_job([busy, held]) is False
    gate.open()
    client.get_command_response(held, True)
    with pytest.raises(Exception, match="ZeroDivisionError"):
        cluster.check_job([busy, held])


def test_jobs_that_are_unknown(cluster: Any) -> None:
    with pytest.raises(KeyError):
        cluster.check_job([10**9])
