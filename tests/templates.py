"""The templates of batch jobs in launch/, as a person would copy and change them for the tests.

Only lines below a comment that begins with "yours" may be changed, each is there once, and the rest is as it
is in launch/: so a template that has gone stale fails.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NAMES = ("slurm", "pbs", "sge", "hostfile")
_MARK = "# yours"
_ACTIVATION = '. "$HOME/venv/bin/activate" || exit 1'


def text_of(name: str) -> str:
    """The template as it is."""
    return (ROOT / "launch" / f"{name}.sh").read_text()


def fill_in(name: str, folder: Path, python: str, changes: dict[str, str]) -> Path:
    """A copy in the folder, with some of the marked lines changed and this interpreter's environment active.

    changes: new lines by old ones; an empty one leaves its line out.
    """
    given = text_of(name).splitlines()
    lines = list(given)
    for old, new in {**changes, _ACTIVATION: _activate(folder, python)}.items():
        assert given.count(old) == 1, f"{old!r} is not once in launch/{name}.sh"
        assert _is_marked(given, given.index(old)), f'{old!r} of launch/{name}.sh is not marked "yours"'
        lines[given.index(old)] = new
    path = folder / f"{name}.sh"
    path.write_text("\n".join(lines) + "\n")
    path.chmod(0o755)
    return path


def choose(name: str, words: str) -> dict[str, str]:
    """The changes that take another one of the commands that are offered: the one that begins like this."""
    (chosen,) = [line for line in text_of(name).splitlines() if line.startswith(f"#{words}")]
    return {command_of(name): "", chosen: chosen[1:]}


def command_of(name: str) -> str:
    """The line with the command that is chosen already, which runs a script."""
    (given,) = [line for line in text_of(name).splitlines() if re.match(r"(exec |run=\()mpiframe run ", line)]
    return given


def _is_marked(lines: list[str], index: int) -> bool:
    """Whether the paragraph of this line begins with a mark."""
    while index and lines[index - 1].strip():
        index -= 1
    return lines[index].startswith(_MARK)


def _activate(folder: Path, python: str) -> str:
    programs = Path(python).parent
    lines = [f". {shlex.quote(str(programs / 'activate'))} || exit 1"]
    if not (programs / "mpiframe").exists():  # an environment that mpiframe is not installed in
        own = folder / "bin"
        own.mkdir(exist_ok=True)
        (own / "mpiframe").write_text('#!/bin/sh\nexec python -m mpiframe "$@"\n')
        (own / "mpiframe").chmod(0o755)
        lines.append(f"export PATH={shlex.quote(str(own))}:$PATH")
    return "\n".join([*lines, f"export PYTHONPATH={shlex.quote(str(ROOT))}"])
