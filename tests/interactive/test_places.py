"""Worlds in the background: started, found, attached to, stopped; what dies, and what is left of it."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpiframe.report.reading import read
from tests.conftest import Launcher
from tests.interactive.worlds import SECONDS, Desk, await_that, desk_of

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
HELLO = "print('attached', [r.ret for r in client.push('6 * 7', 'all', block=True)], sep='\\n', flush=True)"


@pytest.fixture
def desk(launcher: Launcher) -> Iterator[Desk]:
    with desk_of(launcher) as found:
        yield found


def test_a_world_is_started_found_worked_with_and_stopped(desk: Desk) -> None:
    desk.env["MPIFRAME_GRACE"] = "20"  # its servers may take so long to end in order
    started = desk.mpiframe("start", "-n", "3", "--name", "survey").expect(0)
    assert "mpiframe attach survey" in started.out
    assert "mpiframe stop survey" in started.out
    sessions = {os.getsid(pid) for pid in desk.pids("mpiframe.worlds.background")}
    assert os.getsid(0) not in sessions, "a closing terminal would take it along"

    second = desk.mpiframe("start", "-n", "2", "--name", "survey").expect(2)
    assert "a world named survey runs already: 3 ranks of" in second.err

    script = f"with mpiframe.attach('survey') as client: {HELLO}"
    assert desk.script(script).expect(0).out == "attached\n[42, 42]\n"

    listed = desk.mpiframe("list").expect(0).out.splitlines()
    assert [line.split()[0] for line in listed] == ["NAME", "survey"]
    narrow = desk.mpiframe("list", columns=40).expect(0).out.splitlines()
    assert narrow[0] == "survey"
    assert max(map(len, narrow)) <= 40

    unknown = desk.script("mpiframe.attach('surwey')")
    assert "there is no world named surwey" in unknown.err
    assert "did you mean survey?" in unknown.err

    stopped = desk.mpiframe("stop", "survey", "--timeout", "40").expect(0)
    assert stopped.out.startswith("survey: asked it to end; it ended in order after")
    desk.expect_nothing_left()
    assert desk.mpiframe("list").expect(0).out == "no world runs here\n"


@pytest.mark.long
def test_what_the_readme_says_of_worlds(desk: Desk) -> None:
    def block(word: str) -> str:
        (found,) = [text for text in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if word in text]
        return found

    own = desk.script(block("mpiframe.launch(")).expect(0)
    assert own.out == "81\n"
    desk.mpiframe("start", "-n", "3", "--name", "survey").expect(0)
    desk.script("mpiframe.attach('survey').push('def night(n): return n', 'all', block=True)").expect(0)
    left = block('session="ann"') + "print(sum(r.ret for r in responses))"
    assert desk.script(left).expect(0).out == "499500\n"
    desk.mpiframe("stop", "survey").expect(0)
    desk.expect_nothing_left()


@pytest.mark.long
def test_a_world_in_the_background_is_traced_where_it_was_started(desk: Desk) -> None:
    for name, says in (("no/such/run.json", "No such file or directory"), ("worlds", "Is a directory")):
        desk.worlds.mkdir(exist_ok=True)
        failed = desk.mpiframe("start", "-n", "2", "--name", "survey", "--trace", name).expect(2)
        assert failed.err == f"mpiframe start: the trace {name} cannot be written: {says}\n"
    failed = desk.mpiframe("start", "-n", "2", "--mpiexec", "/no/mpiexec", "--trace", "run.json").expect(2)
    assert "/no/mpiexec" in failed.err
    assert not (desk.folder / "run.json").exists()

    desk.mpiframe("start", "-n", "3", "--name", "survey", "--trace", "run.json").expect(0)
    desk.script(f"with mpiframe.attach('survey', 'ann') as client: {HELLO}").expect(0)
    desk.mpiframe("stop", "survey").expect(0)
    trace = read(str(desk.folder / "run.json"))
    assert trace.whole
    ran = [
        int(rank) for rank, name in zip(trace.server, trace.name, strict=True) if trace.names[name] == "6 * 7"
    ]
    assert sorted(ran) == [1, 2]
    desk.expect_nothing_left()


@pytest.mark.long
def test_a_world_that_was_killed_is_known_to_be_dead(desk: Desk) -> None:
    desk.mpiframe("start", "-n", "2", "--name", "survey").expect(0)
    desk.kill()
    died = desk.script("mpiframe.attach('survey')").expect(1).err
    assert "WorldError: the world survey has died, some time after 20" in died
    log = desk.worlds / "survey/log"
    assert f"Its log is {log}" in died
    listed = desk.mpiframe("list").expect(0).out.splitlines()
    assert listed[0] == "no world runs here"
    assert listed[1].startswith("survey died after 20")
    assert sorted(path.name for path in log.parent.iterdir()) == ["card", "lock", "log"]
    # Its name is free.
    desk.mpiframe("start", "-n", "2", "--name", "survey").expect(0)
    desk.mpiframe("stop").expect(0)  # the only one
    desk.expect_nothing_left()


@pytest.mark.long
def test_a_world_of_one_s_own_ends_with_its_block(desk: Desk) -> None:
    ended = desk.script(
        f"""
with mpiframe.launch(3) as client:
    {HELLO}
    client.push("open('late', 'w').write(str(__import__('time').sleep(0.2)))")
assert os.path.exists('late'), 'what was pushed is waited for'
"""
    ).expect(0)
    assert ended.out == "attached\n[42, 42]\n"
    desk.expect_nothing_left()
    failed = desk.script("with mpiframe.launch(2) as client: client.push('1 / 0')").expect(1)
    assert "ZeroDivisionError" in failed.err, "a failure that nobody saw must not look like success"
    desk.expect_nothing_left()
    dropped = desk.script(
        "with mpiframe.launch(2) as client:\n    client.push('import time; time.sleep(600)')\n    1 / 0"
    ).expect(1)
    assert dropped.err.splitlines()[-1] == "ZeroDivisionError: division by zero"
    desk.expect_nothing_left()


def test_a_world_of_one_s_own_ends_with_a_process_that_is_killed(desk: Desk) -> None:
    # A process that it has forked, and that has all its files open, lives a little longer.
    script = (
        f"client = mpiframe.launch(2)\n{HELLO}\nif not os.fork(): os.close(1), os.close(2), time.sleep(600)\n"
    )
    killed = desk.script(f"{script}os.kill(os.getpid(), signal.SIGKILL)")
    assert "attached" in killed.expect(-signal.SIGKILL).out
    await_that(lambda: not desk.pids("_hosted"))
    assert desk.pids("_hosted") == []
    await_that(lambda: not desk.pids("mpiframe.worlds.background"))
    desk.kill()
    desk.expect_nothing_left()


@pytest.mark.long
def test_a_script_s_world_has_a_hub_beside_it(desk: Desk) -> None:
    (desk.folder / "script.py").write_text(
        "import mpiframe, sys\n"
        "with mpiframe.Client() as client:\n"
        "    print('ready', flush=True)\n"
        "    print(sys.stdin.readline().strip(), client.push('x', target=1, block=True)[0].ret)\n"
    )
    with desk.running("-m", "mpiframe", "run", "-n", "2", "--name", "beside", "script.py") as run:
        assert run.stdin is not None
        assert run.stdout is not None
        assert run.stdout.readline() == "ready\n"
        desk.script(
            "with mpiframe.attach('beside') as client: client.push('x = 5', target=1, block=True)"
        ).expect(0)
        out, err = run.communicate("go on\n", SECONDS)
        assert (run.returncode, out) == (0, "go on 5\n"), err
    desk.expect_nothing_left()


@pytest.mark.long
@pytest.mark.parametrize("how", ["stop", "session"])
def test_to_stop_a_script_s_world_is_its_ctrl_c(desk: Desk, how: str) -> None:
    (desk.folder / "script.py").write_text(
        "import mpiframe, time\n"
        "with mpiframe.Client() as client:\n"
        "    print('ready', flush=True)\n"
        "    try: time.sleep(600)\n"
        "    except KeyboardInterrupt: print('told', flush=True); raise\n"
    )
    with desk.running("-m", "mpiframe", "run", "-n", "2", "--name", "beside", "script.py") as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "ready\n"
        if how == "stop":
            said = desk.mpiframe("stop", "beside").expect(0).out
            assert said.startswith("beside: interrupted its script, as Ctrl-C does; it ended in order")
        else:
            desk.script("mpiframe.attach('beside').stop_world()").expect(0)
        out, err = run.communicate(timeout=SECONDS)
        assert (run.returncode, out) == (130, "told\n"), err
    desk.expect_nothing_left()


# -- what takes longer -----------------------------------------------------------------------------------


@pytest.mark.long
def test_what_does_not_come_up_is_told_with_its_last_words(desk: Desk) -> None:
    (desk.folder / "sitecustomize.py").write_text(
        "import os, sys\nif os.environ.get('MPIFRAME_RUN_DIR'): sys.exit('the disk is full of mice')\n"
    )
    desk.env["PYTHONPATH"] += os.pathsep + str(desk.folder)
    failed = desk.mpiframe("start", "-n", "2", "--name", "survey").expect(2)
    assert "the world survey ended before its hub could be reached; it printed:" in failed.err
    assert "the disk is full of mice" in failed.err
    desk.expect_nothing_left()


@pytest.mark.long
def test_what_hangs_while_it_starts_is_ended(desk: Desk) -> None:
    (desk.folder / "sitecustomize.py").write_text(
        "import os, time\nif os.environ.get('MPIFRAME_RUN_DIR'): time.sleep(600)\n"
    )
    desk.env["PYTHONPATH"] += os.pathsep + str(desk.folder)
    failed = desk.mpiframe("start", "-n", "2", "--name", "survey", "--timeout", "1").expect(2)
    assert "the world survey was not there after 1 s; it printed nothing" in failed.err
    desk.expect_nothing_left()


@pytest.mark.long
def test_ctrl_c_while_it_starts_leaves_nothing(desk: Desk) -> None:
    (desk.folder / "sitecustomize.py").write_text(
        "import os, time\nif os.environ.get('MPIFRAME_RUN_DIR'): time.sleep(600)\n"
    )
    desk.env["PYTHONPATH"] += os.pathsep + str(desk.folder)
    with desk.running("-m", "mpiframe", "start", "-n", "2", "--name", "survey") as start:
        await_that((desk.worlds / "survey/card").exists)
        start.send_signal(signal.SIGINT)
        _, err = start.communicate(timeout=SECONDS)
        assert (start.returncode, err) == (130, "mpiframe start: interrupted; nothing of the world is left\n")
    desk.expect_nothing_left()


@pytest.mark.long
def test_a_world_that_does_not_heed_is_ended_by_force(desk: Desk) -> None:
    desk.mpiframe("start", "-n", "3", "--name", "survey").expect(0)
    client = json.loads((desk.worlds / "survey/card").read_text())["hub_pid"]
    os.kill(client, signal.SIGSTOP)
    stopped = desk.mpiframe("stop", "survey", "--timeout", "1").expect(0)
    assert "ended it by force" in stopped.out
    desk.expect_nothing_left()


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_world_in_the_foreground_ends_with_its_batch_job(desk: Desk, number: int) -> None:
    with desk.running("-m", "mpiframe", "start", "-n", "2", "--name", "batch", "--foreground") as job:
        await_that(lambda: desk.mpiframe("list").out.endswith(" batch\n"))
        script = f"with mpiframe.attach('batch') as client: {HELLO}"
        assert desk.script(script).expect(0).out == "attached\n[42]\n"
        job.send_signal(number)
        job.communicate(timeout=SECONDS)
        assert job.returncode == 128 + number
    listed = desk.mpiframe("list").expect(0).out
    assert ("batch died" in listed) == (number == signal.SIGTERM), "an end by Ctrl-C is no death"
    assert desk.pids() == []


@pytest.mark.long
def test_a_resilient_world_lives_on_when_a_server_dies(desk: Desk) -> None:
    desk.mpiframe("start", "-n", "3", "--name", "survey", "--resilient", "--restart", "always").expect(0)
    script = """
with mpiframe.attach('survey') as client:
    future = client.submit(os.kill, client.servers[1].pid, 9, target=2)
    print(type(future.exception()).__name__)
    print([r.ret for r in client.push('6 * 7', target='all', block=True)])
"""
    assert desk.script(script).expect(0).out == "ServerLost\n[42, 42]\n"
    assert "in order" in desk.mpiframe("stop", "survey").expect(0).out
    desk.expect_nothing_left()
