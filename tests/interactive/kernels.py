"""A real kernel of Jupyter, driven as a notebook drives it; run by tests in a process of its own."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

SECONDS = 60.0  # for one cell
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def private_jupyter(folder: Path, argv: list[str] | None = None) -> str:
    """Make this process's Jupyter keep to a folder; the name of its only kernel, which runs this Python.

    Call it before anything of Jupyter is imported. argv: what starts the kernel, if not this Python alone.
    """
    for name, part in (
        ("JUPYTER_DATA_DIR", "data"),
        ("JUPYTER_RUNTIME_DIR", "runtime"),
        ("JUPYTER_CONFIG_DIR", "config"),
        ("IPYTHONDIR", "ipython"),
        ("MPLCONFIGDIR", "matplotlib"),
        ("HOME", "home"),
    ):
        os.environ[name] = str(folder / part)
        (folder / part).mkdir(parents=True, exist_ok=True)
    os.environ["JUPYTER_PLATFORM_DIRS"] = "1"
    spec = folder / "data" / "kernels" / "under-test"
    spec.mkdir(parents=True, exist_ok=True)
    words = [*(argv or [sys.executable]), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    text = {"argv": words, "display_name": "under test", "language": "python"}
    (spec / "kernel.json").write_text(json.dumps(text))
    return "under-test"


class Kernel:
    """One kernel, and what it has said, cell by cell."""

    def __init__(self, argv: list[str] | None = None) -> None:
        name = private_jupyter(Path.cwd() / "jupyter", argv)
        from jupyter_client.manager import KernelManager

        self.manager = KernelManager(kernel_name=name)
        self.manager.start_kernel()
        self._client = self.manager.blocking_client()
        self._client.start_channels()
        self._client.wait_for_ready(timeout=SECONDS)
        self.said: dict[str, list[Any]] = {}  # by the ids of cells: their messages
        self._idle: set[str] = set()

    @property
    def pid(self) -> int:
        """The process that the kernel was started as."""
        return int(self.manager.provisioner.process.pid)

    def begin(self, code: str) -> str:
        """Start a cell; its id."""
        cell: str = self._client.execute(code)
        self.said[cell] = []
        return cell

    def end(self, cell: str, seconds: float = SECONDS) -> Cell:
        """Wait for the end of a cell."""
        self._listen(lambda: cell in self._idle, seconds, f"the end of a cell; so far {self.said[cell]}")
        return Cell(self.said[cell])

    def run(self, code: str, seconds: float = SECONDS) -> Cell:
        """Run a cell."""
        return self.end(self.begin(code), seconds)

    def await_text(self, cell: str, text: str, seconds: float = SECONDS) -> Cell:
        """Wait until a cell, which may have ended, shows this text."""
        self._listen(lambda: text in Cell(self.said[cell]).text, seconds, f"{text!r} in {self.said[cell]}")
        return Cell(self.said[cell])

    def _listen(self, done: Any, seconds: float, what: str) -> None:
        import queue

        deadline = time.monotonic() + seconds
        while not done():
            left = deadline - time.monotonic()
            assert left > 0, f"waited {seconds} s for {what}"
            try:
                message = self._client.get_iopub_msg(timeout=min(left, 1.0))
            except queue.Empty:
                continue
            cell = message["parent_header"].get("msg_id")
            content = message["content"]
            if message["msg_type"] == "status":
                if content["execution_state"] == "idle":
                    self._idle.add(cell)
            elif cell in self.said:
                self.said[cell].append((message["msg_type"], content))

    def interrupt(self) -> None:
        """What the stop button does."""
        self.manager.interrupt_kernel()

    def restart(self) -> None:
        """What the restart button does."""
        self.manager.restart_kernel()
        self._client.wait_for_ready(timeout=SECONDS)

    def close(self) -> None:
        """End the kernel as a notebook does that is shut down."""
        self._client.stop_channels()
        self.manager.shutdown_kernel()


class Cell:
    """What a cell has shown."""

    def __init__(self, messages: list[Any]) -> None:
        self.messages = messages

    @property
    def text(self) -> str:
        """All its text, as it came, without colours."""
        parts = []
        for kind, content in self.messages:
            if kind == "stream":
                parts.append(content["text"])
            elif kind == "error":
                parts.append("\n".join(content["traceback"]) + "\n")
            elif "data" in content:
                parts.append(content["data"].get("text/plain", "") + "\n")
        return _COLOUR.sub("", "".join(parts))

    @property
    def html(self) -> str:
        """The HTML of what it displays, the last state of each."""
        return "\n".join(c["data"].get("text/html", "") for k, c in self.messages if "data" in c)

    @property
    def error(self) -> str | None:
        """The name of the error that ended it."""
        return next((content["ename"] for kind, content in self.messages if kind == "error"), None)

    def kinds(self) -> list[str]:
        """What kinds of messages came, in order."""
        return [kind for kind, _ in self.messages]
