"""Notebooks, in a real kernel: the tour, what appears where, the stop button, and how a world of theirs ends.

Each test is a script that runs in a process of its own, below which everything lies that it starts, so that
what is left behind is found.
"""

from __future__ import annotations

import pytest

from tests.conftest import Launcher

pytestmark = pytest.mark.timeout(240)

SECONDS = 150.0

TOUR = """
    import json, os, re, shutil, sys
    from pathlib import Path

    import tests.interactive.kernels as kernels

    os.environ["MPIFRAME_WORLDS"] = str(Path.cwd() / "worlds")
    name = kernels.private_jupyter(Path.cwd() / "jupyter")

    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(Path(kernels.__file__).parents[2] / "examples" / "tour.ipynb", 4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") for cell in notebook.cells), "it is kept without outputs"
    NotebookClient(notebook, kernel_name=name, timeout=60).execute()

    def shown(word):
        '''The messages of the cell whose code has this word.'''
        (cell,) = [c for c in notebook.cells if c.cell_type == "code" and word in c.source]
        print(word, json.dumps(cell.outputs)[:3000])
        return [(o.output_type, o) for o in cell.outputs]

    def text_of(outputs):
        return "".join(o.get("text", "") or o.get("data", {}).get("text/plain", "") for _, o in outputs)

    servers = shown("mpiframe.launch")[-1][1].data
    rows = servers["text/html"].count("<tr>") - 1
    assert rows == 3, servers
    assert servers["text/html"].count("idle") == rows

    (response,) = shown("np.arange(10.0)")
    assert "ret=45.0" in response[1].data["text/plain"]
    assert "request" in response[1].data["text/html"]
    assert re.fullmatch(r"\\[((0.99|1.0)\\d*(, )?){6}\\]", text_of(shown("spread")))

    bar, found = shown('progress="dedisperse"')
    assert "351/351" in bar[1].data["text/html"] and "servers</summary>" in bar[1].data["text/html"]
    assert re.fullmatch(r"a burst of 1\\d\\.\\d sigma at DM 350\\n", found[1].text)
    assert len(shown("plt.plot")[-1][1].data["image/png"]) > 5000
    assert text_of(shown("client.scatter")) == "True (256,) 1.0\\n"

    prompt = text_of(shown("%%on all"))
    assert len(set(re.findall(r"\\[server (\\d) #\\d+\\] \\d+ channels, process \\d+", prompt))) == rows
    assert prompt.count(", 8192)") == rows

    ((kind, error),) = [(k, o) for k, o in shown("[100.0,") if k == "error"]
    trace = re.sub(r"\\x1b\\[[0-9;]*m", "", "\\n".join(error.traceback))
    assert error.ename == "CommandError"
    assert "item 1 of the map raised TypeError" in trace
    assert "On the server:" in trace and "in delay" in trace and "return 4.1488e6 * dm" in trace
    assert re.search(r"Cell In\\[\\d+\\], line 2, in significance", trace)
    assert "verbs.py" not in trace and "mapping.py" not in trace
    assert trace.count("Traceback") == 2

    assert text_of(shown("threading.Timer")).count("KeyboardInterrupt") == rows
    assert text_of(shown("%on all part.shape")).count("8388608") == rows
    assert shown("%servers")[-1][1].data["text/html"].count("idle") == rows
    print("all of the tour is as it should be")
"""


def test_the_tour(launcher: Launcher) -> None:
    ended = launcher.run(TOUR, ranks=1, plain=True, seconds=SECONDS).expect(0)
    assert "all of the tour is as it should be" in ended.stdout


SETUP = """
    import os, re, signal, subprocess, sys, time
    from pathlib import Path
    from tests.interactive.kernels import Kernel

    worlds = Path.cwd() / "worlds"
    os.environ["MPIFRAME_WORLDS"] = str(worlds)
    kernel = Kernel()
    def until(condition, seconds=20.0):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "it does not become so"
            time.sleep(0.01)
    def alive(pid):
        try:
            return open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False
    def pids(cell):
        return [int(p) for p in re.findall(r"pid=(\\d+)", cell.text)]
    def nothing_left():
        until(lambda: [p for p in worlds.glob("*") if p.name != ".lock"] == [])
"""

LAUNCH = """
    first = kernel.run("import mpiframe, os, time; client = mpiframe.launch(3)")
    assert first.error is None, first.text
    where = kernel.run("print(*[f'pid={row.pid}' for row in client.servers])")
    servers = pids(where)
    assert len(servers) == 2 and all(map(alive, servers)), where.text
"""


def run(launcher: Launcher, script: str, launch: str = LAUNCH) -> None:
    """Run a script that has a kernel, with a world of two servers that was launched in it."""
    whole = SETUP + launch + script + "\n    nothing_left()\n    print('well')"
    ended = launcher.run(whole, ranks=1, plain=True, seconds=SECONDS)
    assert "well" in ended.expect(0).stdout


def test_output_appears_below_the_cell_that_caused_it(launcher: Launcher) -> None:
    run(
        launcher,
        """
    # Live, while the cell runs.
    cell = kernel.begin('''%%on 1
    import time
    for part in range(2):
        print('part', part, flush=True)
        time.sleep(0.3 if part else 0.0)
    print('end')
    ''')
    assert "end" not in kernel.await_text(cell, "part 0").text
    text = kernel.end(cell).text
    assert re.findall(r"\\[server 1 #\\d+\\] (.*)", text) == ["part 0", "part 1", "end"], text

    # Late, when other cells have run.
    early = kernel.begin("f = client.submit(lambda: [time.sleep(1.0), print('late words')] and None)")
    assert kernel.end(early).text == ""
    later = kernel.run("1 + 1")
    last = kernel.run("time.sleep(1.5); 'slept'")
    kernel.await_text(early, "late words")
    assert "late words" not in later.text + last.text
    assert re.fullmatch(r"\\[server \\d #\\d+\\] late words\\n", kernel.await_text(early, "late").text)

    # What the cell itself prints stays in it, and comes from the notebook's own streams.
    mixed = kernel.run("client.push('print(7)', 'all', block=True); print('mine')")
    assert "mine" in mixed.text.splitlines()
    assert mixed.text.count("] 7") == 2
    kernel.close()
""",
    )


def test_the_stop_button_interrupts_the_command_and_not_the_world(launcher: Launcher) -> None:
    run(
        launcher,
        """
    kernel.run("client.push('x = 41', 'all', block=True)")
    kernel.run("def nap(_=0):\\n    print('begun', flush=True)\\n    time.sleep(1000)")
    kernel.run("command = 'import time; print(\\"begun\\", flush=True); time.sleep(1000)'")
    for code in (
        "client.push(command, 'all', block=True)",
        "list(client.map(nap, range(4), progress=True))",
        "client.progress(client.push(command, 'all'))",
        "client.submit(nap).result()",
        "%on all import time; print('begun', flush=True); time.sleep(1000)",
        "for future in client.progress([client.submit(nap)], ordered=False): pass",
    ):
        busy = kernel.begin(code)
        kernel.await_text(busy, "] begun")
        kernel.interrupt()
        cell = kernel.end(busy, 20)
        assert cell.error == "KeyboardInterrupt", (code, cell.text)
        assert "driver.py" not in cell.text and "attached/loop.py" not in cell.text, cell.text
        after = kernel.run("%on all x + 1")
        assert after.text.count("42") == 2, (code, after.text)
    assert pids(kernel.run("print(*[f'pid={row.pid}' for row in client.servers])")) == servers
    kernel.close()
""",
    )


@pytest.mark.parametrize(
    "way",
    [
        "kernel.close()",
        "kernel.restart()",
        "os.kill(kernel.pid, signal.SIGKILL)",
        "kernel.begin('os._exit(3)')",
        "kernel.run('client.close()')",
    ],
)
def test_a_world_of_the_notebook_ends_with_its_kernel(launcher: Launcher, way: str) -> None:
    run(
        launcher,
        f"""
    if "close" not in {way!r}:
        kernel.run("client.push('import time; time.sleep(1000)', 1)")
    {way}
    until(lambda: not any(map(alive, servers)))
    if "restart" in {way!r}:
        again = kernel.run("import mpiframe; c = mpiframe.launch(2); c.push('6 * 7', 1, block=True)")
        assert "ret=42" in again.text, again.text
    if kernel.manager.is_alive():
        kernel.close()
""",
    )


def test_magics_before_there_is_a_client(launcher: Launcher) -> None:
    run(
        launcher,
        """
    kernel.restart()
    assert kernel.run("%load_ext mpiframe").error is None
    none = kernel.run("%on all 1")
    assert none.error == "WorldError" and "mpiframe.launch(4)" in none.text, none.text
    kernel.run("import mpiframe; client = mpiframe.launch(3)")
    assert kernel.run("%on all 6 * 7").text.count("42") == 2
    wrong = kernel.run("client.push('1 +', 1)")
    assert wrong.error == "CommandSyntaxError" and "commands.py" not in wrong.text, wrong.text
    assert kernel.run("client.get(99)").error == "RequestError"
    kernel.close()
""",
    )


ATTACH = """
    def mpiframe(*words):
        done = subprocess.run(
            [sys.executable, "-m", "mpiframe", *words], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stdout + done.stderr

    mpiframe("start", "-n", "3", "--name", "survey")
    first = kernel.run("import mpiframe, time; client = mpiframe.attach('survey', session='ann')")
    assert first.error is None, first.text
"""


def test_a_kernel_that_is_restarted_comes_back_to_its_requests(launcher: Launcher) -> None:
    run(
        launcher,
        """
    assert kernel.run("%on all 6 * 7").text.count("42") == 2
    early = kernel.begin("ids = client.push('import time; time.sleep(2); print(7)', 'all'); print(ids)")
    ids = kernel.end(early).text.strip()
    assert kernel.run("mpiframe.attach('survey').push('41 + 1', 2, block=True)").text.count("42") == 1
    kernel.await_text(early, "[server 1 #")
    kernel.run("more = client.push('time.sleep(1) or 8', 'all')")
    more = kernel.run("print(more)").text.strip()
    kernel.restart()
    kernel.run("import mpiframe; client = mpiframe.attach('survey', session='ann')")
    cell = kernel.run(f"client.get(client.progress({ids} + {more}))")
    assert cell.error is None and "4/4" in cell.html, cell.text
    assert cell.text.count("ret=8") == 2 and cell.text.count("7\\\\n") == 2, cell.text
    assert kernel.run("%on all 6 * 7").text.count("42") == 2
    kernel.close()
    mpiframe("stop", "survey")
""",
        ATTACH,
    )
