"""Processes without MPI that work with a running world: what they can do, and what becomes of sessions."""

from __future__ import annotations

import concurrent.futures
import operator
import os
import signal
import textwrap
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

import mpiframe
from mpiframe.errors import (
    CommandCancelled,
    CommandError,
    CommandSyntaxError,
    CommandTimeout,
    RequestError,
    SerializationError,
    ServerLost,
    TargetError,
    WorldError,
)
from tests.conftest import Launcher, launching, pythons
from tests.interactive.attached import LIMIT, WORLD, HubWorld, hub_world, in_thread, until


@pytest.fixture(scope="module", params=[p for p in pythons() if not p.is_site], ids=lambda p: p.name)
def shared(request: pytest.FixtureRequest) -> Iterator[HubWorld]:
    """A world that many tests share, each with sessions of its own."""
    with launching(request.param) as launcher, hub_world(launcher) as world:
        yield world


# -- the verbs ------------------------------------------------------------------------------------


def test_the_verbs_are_the_clients(shared: HubWorld) -> None:
    with shared.attach() as client:
        assert client.push("x = 20", "all") == [1, 2]
        assert [r.ret for r in client.push("x + n", [2, 1], True, {"n": 1})] == [21, 21]
        assert [r.status for r in client.get([2, 1])] == ["done", "done"]
        assert client.submit(operator.add, 2, 3).result(LIMIT) == 5
        assert list(client.map(lambda n: n * n, range(100))) == [n * n for n in range(100)]
        client.broadcast(table=np.arange(100_000))
        assert client.gather("int(table.sum())") == [4999950000, 4999950000]
        client.scatter(part=np.arange(7))
        assert client.gather("part").tolist() == list(range(7))
        assert client.reduce(operator.add, lambda n: n, range(100)) == 4950
        assert client.spmd(lambda comm, n: (comm.rank, comm.allreduce(n)), 4) == [(0, 8), (1, 8)]
        assert client.on(2).push("x", True)[0].server == 2
        assert [s.rank for s in client.servers] == [1, 2]
        assert client.facts().ranks == 3
        assert isinstance(client, concurrent.futures.Executor)


def test_errors_are_those_of_a_client(shared: HubWorld) -> None:
    client = shared.attach()
    with pytest.raises(CommandSyntaxError):
        client.push("1 +", 1)
    with pytest.raises(TargetError, match=r"no server 7; .*servers: 1, 2"):
        client.push("1", 7)
    with pytest.raises(SerializationError, match="argument 1"):
        client.submit(print, threading.Lock())
    with pytest.raises(CommandError, match=r"request 1 \(1/0\) on server 1") as caught:
        client.push("1/0", 1, True)[0].result()
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    with pytest.raises(CommandError, match="item 3 of the map"):
        list(client.map(lambda n: 1 // (n - 3), range(5)))
    with pytest.raises(CommandTimeout):
        client.submit("__import__('time').sleep(30)", timeout=0.2).result(LIMIT)
    with pytest.raises(CommandError, match="ZeroDivisionError"):
        client.spmd(lambda comm: 1 // comm.rank)
    with pytest.raises(RequestError, match="no request 99"):
        client.get(99)
    with pytest.raises(WorldError, match=r"servers cannot be replaced|--resilient"):
        client.restart(1)


def test_no_mpi_is_loaded(shared: HubWorld) -> None:
    said = shared.run(
        """
        client = attach()
        client.push("1", "all", True)
        client.scatter(a=[1, 2, 3])
        client.reduce(max, abs, [1, 2, 3])
        client.spmd(lambda comm: comm.rank)
        list(client.map(abs, range(10)))
        print(sorted(m for m in sys.modules if m.startswith("mpi4py")), "end")
        client.close()
        """
    )
    assert said == "[] end\n"


def test_what_commands_print_comes_live(shared: HubWorld, capsys: pytest.CaptureFixture[str]) -> None:
    client = shared.attach(output="redirect")
    code = "import time; print('early', flush=True); time.sleep(60)"
    (id,) = client.push(code, [1])
    until(lambda: "early" in capsys.readouterr().out)
    assert client.cancel(id)
    (answer,) = client.get(id)
    assert answer.stdout == "early\n"
    assert answer.status == "cancelled"
    answer = client.push("import sys; print('to err', file=sys.stderr); print('no end', end='')", 2, True)[0]
    assert (answer.stdout, answer.stderr) == ("no end", "to err\n")
    said = capsys.readouterr()
    assert f"[server 2 #{answer.id}] no end\n" in said.out
    assert f"[server 2 #{answer.id}] to err\n" in said.err


def test_cancel_and_interrupt(shared: HubWorld) -> None:
    client = shared.attach()
    begun = shared.folder / "begun"
    long = f"open({str(begun)!r}, 'w').close(); __import__('time').sleep(60)"
    running, queued = client.push(long, 1), client.push(long, 1)
    until(begun.exists)
    assert client.servers[0].running == running
    assert client.cancel(queued)
    client.interrupt(1)
    first, second = client.get([running, queued], timeout=LIMIT)
    assert first.status == "failed"
    assert "KeyboardInterrupt" in str(first.error)
    assert isinstance(second.error, CommandCancelled)
    begun.unlink()
    future, behind = client.submit(long, target=2), client.submit(long, target=2)
    until(begun.exists)
    assert future.running()
    assert not behind.running()
    assert behind.cancel()
    assert not future.cancel()
    assert client.cancel(future)
    assert not future.running()
    with pytest.raises(concurrent.futures.CancelledError):
        future.result(LIMIT)
    until(lambda: client.servers[1].state == "idle")
    client.interrupt()


def test_the_requests_of_others_are_theirs(shared: HubWorld) -> None:
    ann, bob = shared.attach(), shared.attach()
    id = ann.push("__import__('time').sleep(60)", 1)
    until(lambda: ann.servers[0].running == id)
    assert bob.servers[0].running == 0
    with pytest.raises(WorldError, match=f"server 1 runs a command of session '{ann.session}'"):
        bob.interrupt(1)
    bob.interrupt("all")
    with pytest.raises(RequestError, match=f"no request {id}"):
        bob.cancel(id)
    with pytest.raises(RequestError, match=f"no request {id}"):
        bob.get(id)
    assert ann.servers[0].running == id
    assert bob.push("6 * 7", 2, True)[0].id == 1  # its own first one
    assert ann.cancel(id)


def test_ctrl_c_interrupts_the_command_that_is_waited_for(shared: HubWorld) -> None:
    process = shared.process(
        """
        client = attach()
        try:
            client.push("import time; print('begun', flush=True); time.sleep(60)", 1, True)
        except KeyboardInterrupt:
            print([s.state for s in client.servers], client.push("1 + 1", 1, True)[0].ret)
        client.close()
        """
    )
    assert process.stdout is not None
    assert "begun" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=LIMIT)
    assert said == "['idle', 'idle'] 2\n"
    assert process.returncode == 0


def test_ctrl_c_ends_a_collective(shared: HubWorld) -> None:
    process = shared.process(
        """
        client = attach()
        try:
            client.spmd(lambda comm: print("begun", flush=True) or comm.recv(source=1 - comm.rank))
        except KeyboardInterrupt:
            print(client.spmd(lambda comm: comm.allreduce(comm.rank)))
        client.close()
        """
    )
    assert process.stdout is not None
    assert "begun" in process.stdout.readline()
    assert "begun" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=LIMIT)
    assert said == "[1, 1]\n"
    assert process.returncode == 0


def test_a_callback_may_wait_for_another_command(shared: HubWorld) -> None:
    client = shared.attach()
    found: list[int] = []
    future = client.submit(pow, 2, 3)
    future.add_done_callback(lambda done: found.append(client.submit(pow, done.result(), 2).result(LIMIT)))
    until(lambda: found)
    assert found == [64]


def test_a_callback_may_ask_whether_another_command_runs(shared: HubWorld) -> None:
    client = shared.attach()
    go = shared.folder / "go"
    waits = f"import os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.01)"
    other, found = client.submit(exec, waits, {}, target=2), list[bool]()
    until(other.running)
    client.submit(pow, 2, 3, target=1).add_done_callback(lambda _: found.append(other.running()))
    until(lambda: found)
    assert found == [True]
    go.touch()
    other.result(LIMIT)
    assert not other.running()
    go.unlink()


# -- sessions -------------------------------------------------------------------------------------


def test_two_sessions_push_and_one_is_killed_and_comes_back(shared: HubWorld) -> None:
    """Done-when 2 of the interactive sessions."""
    script = """
        client = attach(sys.argv[1])
        ids = [client.push(f"n * {k}" if k else "n", parameters={"n": k}) for k in range(1000)]
        assert ids == list(range(1, 1001))
        if sys.argv[2] == "die":
            print("pushed", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        print(sum(r.ret for r in client.get(ids)))
        client.close()
    """
    killed, other = shared.process(script, "kate", "die"), shared.process(script, "otto", "live")
    whole = sum(k * k for k in range(1000))
    assert other.communicate(timeout=LIMIT)[0] == f"{whole}\n"
    assert killed.wait(LIMIT) == -signal.SIGKILL
    with shared.attach("kate") as client:
        assert [row.id for row in client.requests()] == list(range(1, 1001))
        assert sum(r.ret for r in client.get(range(1, 1001), timeout=LIMIT)) == whole
        assert client.requests() == []
        assert client.push("1", 1, True)[0].id == 1001
        with pytest.raises(RequestError):
            client.get(5)


def test_a_session_is_left_and_come_back_to(shared: HubWorld) -> None:
    first = shared.attach("lea")
    wait = "import os, time\nwhile not os.path.exists('lea has left'): time.sleep(0.01)\n"
    first.push(wait, 2)
    id = first.push(wait + "print('late'); y = 1", 1)
    value = first.submit(lambda: np.arange(200_000), target=2)
    first.close()
    with pytest.raises(WorldError, match="detached"):
        value.result(LIMIT)
    with pytest.raises(WorldError, match="detached"):
        first.push("1")
    (shared.folder / "lea has left").touch()
    with shared.attach("lea") as second:
        _, answer, array = second.get([1, id, 3], timeout=LIMIT)
        assert answer.stdout == "late\n"
        assert answer.command.startswith("import os, time")
        assert array.ret.sum() == 19999900000
        assert second.get([], timeout=1) == []


def test_a_session_has_one_process_at_a_time(shared: HubWorld) -> None:
    first = shared.attach("max")
    waiting = first.submit("__import__('time').sleep(60)")
    with pytest.raises(WorldError, match=r"session 'max' is attached already \(process .*take_over=True"):
        shared.attach("max")
    second = shared.attach("max", take_over=True)
    with pytest.raises(WorldError, match=r"taken over by another process.*session='max'"):
        waiting.result(LIMIT)
    assert second.cancel(1)
    (row,) = second.get(1)
    assert row.status == "cancelled"
    for name in ("", "a b", "../x", "x" * 65):
        with pytest.raises(WorldError, match="no name for a session"):
            shared.attach(name)


def test_a_session_that_is_dropped_leaves_nothing(shared: HubWorld) -> None:
    client = shared.attach("nora")
    ids = [client.push("__import__('time').sleep(60)", 1) for _ in range(10)]
    client.close(drop=True)
    with shared.attach("nora") as client:
        assert client.requests() == []
        assert client.push("1", 1, True)[0].id == 1
    assert ids


# -- turns ----------------------------------------------------------------------------------------


def test_a_long_queue_of_one_session_does_not_hold_up_another(shared: HubWorld) -> None:
    greedy, modest = shared.attach(), shared.attach()
    code = "__import__('time').sleep(0.05)"
    greedy.push("pass", "all", True)
    anywhere = [greedy.push(code) for _ in range(5_000)]
    there = [greedy.push(code, 1) for _ in range(5_000)]
    assert modest.push("40 + 2", 1, True, timeout=LIMIT)[0].ret == 42
    assert modest.push("40 + 2", None, True, timeout=LIMIT)[0].ret == 42
    left = [row for row in greedy.requests() if row.status == "queued"]
    assert len(left) > 9_000
    greedy.close(drop=True)
    assert anywhere
    assert there
    until(lambda: [s.state for s in modest.servers] == ["idle", "idle"])


def test_modules_beside_the_attached_script_are_found_by_servers(shared: HubWorld) -> None:
    (shared.folder / "beside").mkdir()
    (shared.folder / "beside" / "mine_alone.py").write_text("def triple(n):\n    return 3 * n\n")
    said = shared.run(
        """
        sys.path.insert(0, "beside")
        import mine_alone
        client = attach()
        print(client.submit(mine_alone.triple, 14).result())
        client.close()
        """
    )
    assert said == "42\n"


@pytest.mark.long
def test_a_replacement_finds_the_modules_that_the_others_find(launcher: Launcher) -> None:
    """Also for what is the first command of its process, and when that process has left."""
    script = WORLD.replace('"never"', '"always"')
    with hub_world(launcher, 3, script, options=("--resilient",)) as world:
        (world.folder / "beside").mkdir()
        (world.folder / "beside" / "mine_alone.py").write_text("def triple(n):\n    return 3 * n\n")
        said = world.run(
            """
            sys.path.insert(0, "beside")
            import mine_alone
            client = attach()
            client.setup("import mine_alone")
            lost = client.submit(os.kill, client.servers[1].pid, signal.SIGKILL, target=2)
            print(type(lost.exception()).__name__, client.submit(mine_alone.triple, 14, target=2).result())
            client.close()
            """
        )
        assert said == "ServerLost 42\n"

        client = world.attach()
        lost = client.submit(os.kill, client.servers[0].pid, signal.SIGKILL, target=1)
        assert isinstance(lost.exception(LIMIT), ServerLost)
        assert client.push("mine_alone.triple(2)", 1, True, timeout=LIMIT)[0].ret == 6
        mine, standard = str(world.folder / "beside"), os.path.dirname(os.__file__)
        for response in client.push("__import__('sys').path", "all", True, timeout=LIMIT):
            assert response.ret.index(mine) > response.ret.index(standard)  # it stands in front of nothing


@pytest.mark.long
def test_a_collective_that_comes_first_finds_modules_too(shared: HubWorld) -> None:
    (shared.folder / "together").mkdir()
    (shared.folder / "together" / "mine_together.py").write_text("def rank(comm):\n    return comm.rank\n")
    said = shared.run(
        """
        sys.path.insert(0, "together")
        import mine_together
        with attach() as client:
            print(client.spmd(mine_together.rank))
        """
    )
    assert said == "[0, 1]\n"


def test_events_and_log_records_reach_the_one_they_are_for(shared: HubWorld) -> None:
    code = """
        import logging
        from mpiframe import Plugin, command

        class Teller(Plugin):
            name = "teller"

            @command
            def tell(self, n):
                self.context.emit({"n": n})
                return n
    """
    (shared.folder / "teller_plugin.py").write_text(textwrap.dedent(code))
    said = shared.run(
        """
        sys.path.insert(0, os.getcwd())
        import logging, threading
        logging.basicConfig(format="%(rank)d %(message)s")
        from teller_plugin import Teller
        client, told = attach(), []
        proxy = client.plugin(Teller)
        came = threading.Event()
        proxy.subscribe(lambda server, event: (told.append((server, event)), len(told) == 2 and came.set()))
        assert proxy.tell(7) == [7, 7]
        assert came.wait(20)
        print(sorted(told))
        client.push("import logging; logging.getLogger('x').warning('look %d', 5)", 2, True)
        client.close()
        """
    )
    assert "[(1, {'n': 7}), (2, {'n': 7})]" in said
    assert "2 look 5" in said


# -- the end of the world -------------------------------------------------------------------------


def test_a_world_that_is_stopped_tells_everybody(launcher: Launcher) -> None:
    # What runs is interrupted, and may take so long to end in order.
    with hub_world(launcher, 2, env={"MPIFRAME_GRACE": "20"}) as world:
        ann, bob = world.attach("ann"), world.attach("bob")
        waiting = bob.submit("__import__('time').sleep(60)")
        ann.stop_world()
        with pytest.raises(mpiframe.MpiframeError):
            waiting.result(LIMIT)
        until(lambda: bob._loop.gone)
        with pytest.raises(WorldError, match=r"^the world 'survey' has ended, and with it what was pushed"):
            bob.push("1")
        world.world.wait(LIMIT).expect(0)


@pytest.mark.long
def test_a_world_is_stopped_when_all_was_done(launcher: Launcher) -> None:
    with hub_world(launcher, 2) as world:
        ann, bob = world.attach("ann"), world.attach("bob")
        futures = [bob.submit("__import__('time').sleep(0.05) or n", n=n) for n in range(10)]
        ann.stop_world(drain=True)
        assert [future.result(LIMIT) for future in futures] == list(range(10))
        world.world.wait(LIMIT).expect(0)


@pytest.mark.long
def test_a_script_does_not_wait_for_what_others_have_pushed(launcher: Launcher) -> None:
    script = WORLD.replace("hub.serve()", "client.push('x = 1', 1); hub.wait(); print('over')")
    with hub_world(launcher, 2, script) as world:
        client = world.attach()
        futures = [client.submit("__import__('time').sleep(60)") for _ in range(10)]
        client.stop_world()
        for future in futures:
            with pytest.raises((concurrent.futures.CancelledError, mpiframe.MpiframeError)):
                future.result(LIMIT)
        assert world.world.wait(LIMIT).expect(0).stdout == "over\n"


def test_a_world_that_is_killed_ends_every_wait(launcher: Launcher) -> None:
    with hub_world(launcher, 2) as world:
        client = world.attach()
        future, id = client.submit("__import__('time').sleep(60)", target=1), client.push("1", 1)
        errors: list[BaseException] = []

        def fetch() -> None:
            try:
                client.get(id).pop().result()
            except BaseException as error:
                errors.append(error)

        thread = in_thread(fetch)
        start = time.monotonic()
        world.world.crash()
        with pytest.raises(WorldError, match=r"world 'survey' cannot be reached any more.*come back"):
            future.result(LIMIT)
        thread.join(LIMIT)
        assert [type(error) for error in errors] == [WorldError]
        assert time.monotonic() - start < LIMIT
        with pytest.raises(WorldError, match="cannot be reached"):
            client.servers  # noqa: B018 - asking is the test
