"""Run in a job: `python run_function.py IN OUT` calls the function in IN and writes its result to OUT.

IN holds two pickles: how to prepare (Python's path, modules to import), then (function, args, kwargs,
each). OUT holds one: ("ok", value) or ("error", exception, traceback); in an array one file a task. It
is run by its path, so it needs nothing of mpiframe, only cloudpickle.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    del sys.path[0]  # this folder: its modules are no one's to import by their short names

import importlib
import os
import pickle
import traceback
from typing import Any


def main(source: str, target: str) -> int:
    """Call the function; 0 if it returned."""
    index = os.environ.get("MPIFRAME_ARRAY_INDEX", "")
    answer: tuple[Any, ...]
    status = 0
    try:
        answer = ("ok", _call(source, int(index or 0)))
    except SystemExit as error:
        status = _exit_code(error)
        answer = ("error", error, traceback.format_exc())
    except BaseException as error:
        traceback.print_exc()
        status, answer = 1, ("error", error, traceback.format_exc())
    try:
        content = _dump(answer)
    except Exception as problem:
        traceback.print_exc()
        text, told = traceback.format_exc(), problem
        if answer[0] == "error":  # the exception cannot travel: its text can
            text, told = answer[-1], RuntimeError(f"{type(answer[1]).__name__}: {answer[1]}")
        status, content = status or 1, pickle.dumps(("error", RuntimeError(str(told)), text))
    path = f"{target}.{index}" if index else target
    part = f"{path}.part"
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
    os.replace(part, path)
    return status


def _call(source: str, index: int) -> Any:
    with open(source, "rb") as file:
        prepare = pickle.load(file)
        sys.path[:] = [*prepare["path"], *(entry for entry in sys.path if entry not in prepare["path"])]
        for module in prepare["imports"]:
            importlib.import_module(module)
        function, args, kwargs, each = pickle.load(file)
    if each is not None:
        args = (each[index], *args)
    return function(*args, **kwargs)


def _dump(answer: tuple[Any, ...]) -> bytes:
    import cloudpickle  # late: a function that cannot be loaded is still answered without it

    content: bytes = cloudpickle.dumps(answer, protocol=5)
    return content


def _exit_code(error: SystemExit) -> int:
    if error.code is None:
        return 0
    return error.code & 0xFF if isinstance(error.code, int) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
