"""What the README shows is run, and the tests that it names are there."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mpiframe.plugins.scheduler import LocalBackend

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def block(word: str) -> str:
    """The example in which this word stands."""
    (found,) = [text for text in blocks("python") if word in text]
    return found


def test_the_five_lines(launcher) -> None:
    example, *_ = blocks("python")
    assert len(example.splitlines()) == 5
    assert launcher.run(example, 4).expect(0).stdout == "4.5 4.5\n332833500\n"


def test_the_map_with_a_journal(launcher) -> None:
    example = block("journal=")
    before = "import mpiframe\nclient = mpiframe.Client()\nfit, stars = abs, range(-5, 0)\n"
    script = before + example.replace("    ...", "    print(result)")
    assert launcher.run(script, 3).expect(0).stdout == "5\n4\n3\n2\n1\n"


def test_the_script_for_mpi4casa(launcher) -> None:
    example = block("MPICommandClient")
    # CASA is not here, so a stand-in has the name of its task.
    task = "client.push_command_request('def tclean(**given): print(given)', True, [1, 2, 3])"
    example = example.replace("client.start_services()\n", f"client.start_services()\n{task}\n")
    ended = launcher.run(example, 4, plain=True).expect(0)
    assert "{'vis': 'X54.ms', 'imagename': 'x54'}" in ended.stdout
    assert "SEVERE" not in ended.said


def test_the_jobs(tmp_path: Path) -> None:
    example = block("Queue()")
    # On this machine's own queue, which is there everywhere.
    (tmp_path / "jobs.py").write_text(example.replace("Queue()  ", 'Queue("local")'))
    env = os.environ | {"PYTHONPATH": str(ROOT), "MPIFRAME_SCHEDULER_STATE": str(tmp_path / "state")}
    argv = [sys.executable, "jobs.py"]
    run = subprocess.run(
        argv, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=100, check=False
    )
    (books,) = (tmp_path / "state" / "local").iterdir()
    LocalBackend(str(books)).stop()
    total = sum(seed * k % 7 for seed in range(20) for k in range(1000))
    assert (run.returncode, run.stdout) == (0, f"{total} (0, 'all done\\n', '')\n"), run.stderr


def test_the_clock(launcher) -> None:
    example = (ROOT / "examples" / "plugin_clock.py").read_text(encoding="utf-8")
    assert "['ring', 'ring']" in launcher.run(example, 3).expect(0).stdout


NAMED = sorted(set(re.findall(r"`(tests/[\w/.]+(?:::\w+)?|launch/\w+)`", TEXT)))


@pytest.mark.parametrize("name", NAMED)
def test_what_it_names_is_there(name: str) -> None:
    path, _, test = name.partition("::")
    assert (ROOT / path).exists()
    if test:
        defined = ast.parse((ROOT / path).read_text(encoding="utf-8")).body
        assert test in [node.name for node in defined if isinstance(node, ast.FunctionDef)]


def test_each_promise_names_a_test() -> None:
    _, _, table = TEXT.partition("## Promises")
    rows = re.findall(r"^\| (\d+) \|.*$", table.partition("\n## ")[0], re.MULTILINE)
    assert rows == [str(number) for number in range(1, 18)]
    for row in re.findall(r"^\| \d+ \|.*$", table, re.MULTILINE):
        assert re.search(r"`tests/[\w/.]+", row), row
