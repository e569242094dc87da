"""Run by its path: `python run_function.py CALL` calls the function in CALL with its token.

CALL holds two pickles: Python's path, then (function, token). CALL.answer gets one: a dict with code, result,
message, text (of a traceback) and the fields of the token that have changed.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    del sys.path[0]  # this folder: its modules are no one's to import by their short names

import os
import pickle
import traceback
from typing import Any


def main(path: str) -> int:
    """Call the function; 0 if it could be answered."""
    answer: dict[str, Any] = {"code": 0, "result": None, "message": "", "text": "", "fields": {}}
    try:
        with open(path, "rb") as file:
            sys.path[:] = pickle.load(file)
            function, token = pickle.load(file)
        answer["result"] = function(token)
        answer["fields"] = token.changes()
    except SystemExit as error:
        code = error.code
        answer["code"] = code if isinstance(code, int) else 0 if code is None else 1
        answer["message"] = f"SystemExit: {code}" if answer["code"] else ""
    except BaseException as error:
        traceback.print_exc()
        code = getattr(error, "exit_code", None)
        answer["code"] = int(code) if isinstance(code, int) and code else 1
        answer["message"], answer["text"] = f"{type(error).__name__}: {error}", traceback.format_exc()
    try:
        content = pickle.dumps(answer)
    except Exception as problem:
        words = f"what it returned cannot leave its process: {problem}"
        content = pickle.dumps(
            {**answer, "code": answer["code"] or 1, "result": None, "message": words, "fields": {}}
        )
    part = f"{path}.part"
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
    os.replace(part, f"{path}.answer")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
