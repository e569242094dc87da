"""Small helpers: run a program, find one, open and split files."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from typing import IO, Any


def cmd(
    command: str | Sequence[str],
    args: Sequence[Any] | None = None,
    stdout: Any = None,
    stderr: Any = None,
    tries: int = 1,
) -> tuple[int, str, str]:
    """Run a program: (exit code, output, error output). No shell reads the command.

    stdout, stderr: paths or open files to write to as well. tries: how often, until it ends with 0.
    Raises FileNotFoundError if there is no such program.
    """
    words = shlex.split(command) if isinstance(command, str) else [str(word) for word in command]
    words += [args] if isinstance(args, str) else [str(arg) for arg in args or ()]
    if tries < 1:
        raise ValueError("tries has to be 1 or more")
    for _ in range(tries):
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False
        )
        if done.returncode == 0:
            break
    for target, text in ((stdout, done.stdout), (stderr, done.stderr)):
        if target is not None:
            with _writable(target) as file:
                file.write(text)
    return done.returncode, done.stdout, done.stderr


def which(program: str) -> str | None:
    """The path of a program, None if there is none."""
    return shutil.which(program)


def open_zipped(infile: Any, mode: str = "r") -> Any:
    """A file as text, whether plain, gzipped or bz2 by its name; what is open already is returned."""
    if hasattr(infile, "read") or hasattr(infile, "write"):
        return infile
    path = os.fspath(infile)
    text = mode if "b" in mode or "t" in mode else f"{mode}t"
    if path.endswith(".gz"):
        return gzip.open(path, text)
    if path.endswith((".bz2", ".bz")):
        return bz2.open(path, text)
    return open(path, text)


def split_file(infile: Any, parts: int, outpath: str = "", keep_header: bool = True) -> list[str]:
    """Split a text file into parts of about as many lines: `<name>.split_0001.<ext>` and so on.

    keep_header: the first line is put at the head of each. Raises ValueError for less than one part.
    """
    if parts < 1:
        raise ValueError("parts has to be 1 or more")
    path = os.fspath(infile)
    with open_zipped(path) as file:
        total = sum(1 for _ in file)
    stem, extension = os.path.splitext(os.path.basename(path).removesuffix(".gz").removesuffix(".bz2"))
    folder = outpath or os.path.dirname(path)
    made = []
    with open_zipped(path) as file:
        header = file.readline() if keep_header else ""
        body = max(0, total - 1) if keep_header else total
        for part in range(parts):
            name = os.path.join(folder, f"{stem}.split_{part + 1:04}{extension}")
            with open(name, "w") as out:
                out.write(header)
                for _ in range(body * (part + 1) // parts - body * part // parts):
                    out.write(file.readline())
            made.append(name)
    return made


def _writable(target: Any) -> contextlib.AbstractContextManager[IO[str]]:
    if hasattr(target, "write"):
        return contextlib.nullcontext(target)
    return open(target, "w")
