"""The prompt without IPython: Python's own, with numbered lines, history, completion and the magics.

A line that begins with `%` is a magic. A cell (`%%on all`) goes on to the first empty line. Commands that
come from a pipe are read by the same rules, with no prompt, and the first that fails ends them.
"""

from __future__ import annotations

import builtins
import code
import contextlib
import os
import re
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mpiframe.shell import tracebacks
from mpiframe.shell.live import Readline
from mpiframe.shell.magics import Magics

_HISTORY = 5000  # lines


def state_folder() -> Path:
    """Where histories are kept; made, for this user alone, if it is not there."""
    base = os.environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
    folder = Path(base) / "mpiframe"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def main_module(client: Any) -> Iterator[dict[str, Any]]:
    """Within, `__main__` is a module of the prompt's own; its names.

    What is defined there travels to servers with its code.
    """
    import mpiframe

    before = sys.modules["__main__"]
    module = types.ModuleType("__main__")
    vars(module).update(client=client, mpiframe=mpiframe, __builtins__=builtins)
    sys.modules["__main__"] = module
    try:
        yield vars(module)
    finally:
        sys.modules["__main__"] = before


class Prompt(code.InteractiveInterpreter):
    """Runs statements and magics in one namespace, and numbers them."""

    def __init__(self, names: dict[str, Any], magics: Magics) -> None:
        super().__init__(names)
        self.magics = magics
        self.number = 1
        self.failed = False
        self.lines: list[str] = []  # of a statement that is not complete

    @property
    def prompt(self) -> str:
        """What stands before the next line."""
        first = f"In [{self.number}]: "
        return " " * (len(first) - 5) + "...: " if self.lines else first

    def feed(self, line: str) -> None:
        """Take a line; run what it completes."""
        if line.strip() in ("exit", "quit") and not self.lines:
            raise SystemExit
        in_cell = bool(self.lines) and self.lines[0].startswith("%%")
        if line.startswith("%%") and not self.lines:
            self.lines.append(line)
        elif line.startswith("%") and not self.lines:
            self._run_magic(line[1:], None)
        elif in_cell and line.strip():
            self.lines.append(line)
        elif in_cell:
            head, *body = self.lines
            self._run_magic(head[2:], "\n".join(body))
        else:
            self.lines.append(line)
            if not self.runsource("\n".join(self.lines), f"<input {self.number}>"):
                self._done(self.lines != [""])

    def drop(self) -> None:
        """Forget an incomplete statement."""
        self.lines = []

    def _done(self, counts: bool = True) -> None:
        self.lines = []
        self.number += counts

    def _run_magic(self, text: str, cell: str | None) -> None:
        name, _, rest = text.partition(" ")
        try:
            value = self.magics.run(name.strip(), rest, cell)
            sys.displayhook(value)
        except SystemExit:
            raise
        except BaseException:
            self.showtraceback()
        self._done()

    def display(self, value: Any) -> None:
        """`sys.displayhook`: the value with its number; it is `_` from then on."""
        if value is None:
            return
        vars(builtins)["_"] = value
        text = repr(value)
        print(f"Out[{self.number}]:{chr(10) if chr(10) in text else ' '}{text}")

    def showtraceback(self, *_args: Any, **_options: Any) -> None:
        """Print what is being handled, without our own frames."""
        _, error, tb = sys.exc_info()
        assert error is not None
        self.failed = True
        # The first frames are ours, and run the user's.
        while tb is not None and tb.tb_frame.f_globals.get("__name__") in (__name__, "code"):
            tb = tb.tb_next
        self.write("".join(tracebacks.lines(error, tracebacks.cut(tb))))

    def showsyntaxerror(self, *args: Any, **options: Any) -> None:
        """As the base class does."""
        self.failed = True
        super().showsyntaxerror(*args, **options)


def interact(client: Any, banner: str, ready: Callable[[], None]) -> int:
    """A prompt in the terminal, until its end; the exit status. `ready` is called just before it shows."""
    print(banner, end="", flush=True)
    magics = Magics(client)
    with main_module(client) as names, contextlib.ExitStack() as stack:
        prompt = Prompt(names, magics)
        read = _reader(stack, names, magics)
        _display_by(stack, prompt)
        vars(builtins).setdefault("exit", _Exit())
        ready()
        while True:
            try:
                return _converse(prompt, read)
            except KeyboardInterrupt:
                print("\nKeyboardInterrupt")
                prompt.drop()


def _converse(prompt: Prompt, read: Callable[[str], str]) -> int:
    """Lines, one after the other; the exit status. Raises KeyboardInterrupt where no command ran."""
    try:
        while True:
            prompt.feed(read(prompt.prompt))
    except EOFError:
        print()
        return 0
    except SystemExit as leaving:
        return _status(leaving)


def read(client: Any) -> int:
    """Run what standard input holds; the exit status, 1 after the first failure."""
    with main_module(client) as names:
        prompt = Prompt(names, Magics(client))
        try:
            for line in sys.stdin or ():
                prompt.feed(line.rstrip("\n"))
                if prompt.failed:
                    return 1
            if prompt.lines:
                prompt.feed("")
        except SystemExit as leaving:
            return _status(leaving)
        return int(prompt.failed)


class _Exit:
    """`exit`, where Python was started without `site`."""

    def __call__(self, status: Any = None) -> None:
        raise SystemExit(status)

    def __repr__(self) -> str:
        return "exit() or Ctrl-D leaves"


def _status(leaving: SystemExit) -> int:
    if leaving.code is None or isinstance(leaving.code, int):
        return (leaving.code or 0) & 0xFF
    print(leaving.code, file=sys.stderr)
    return 1


def _display_by(stack: contextlib.ExitStack, prompt: Prompt) -> None:
    before = sys.displayhook
    sys.displayhook = prompt.display
    stack.callback(setattr, sys, "displayhook", before)


def _reader(stack: contextlib.ExitStack, names: dict[str, Any], magics: Magics) -> Callable[[str], str]:
    """What reads a line: with readline, if this Python has it."""
    try:
        import readline
        import rlcompleter
    except ImportError:
        return input
    python = rlcompleter.Completer(names)
    found: list[str] = []

    def complete(text: str, state: int) -> str | None:
        line = readline.get_line_buffer()[: readline.get_endidx()]
        if not line.startswith("%"):
            return python.complete(text, state)
        if state == 0:
            # What readline takes for a word may be the end of ours: it parts at `-`, too.
            word = re.split(r"[ ,%]", line)[-1]
            found[:] = [known[len(word) - len(text) :] for known in magics.complete(line)]
        return found[state] if state < len(found) else None

    readline.set_completer(complete)
    editline = "libedit" in (readline.__doc__ or "")
    readline.parse_and_bind("bind ^I rl_complete" if editline else "tab: complete")
    live = stack.enter_context(Readline())
    remember = _history(readline)

    def read(prompt: str) -> str:
        line = live.read(prompt)
        remember()
        return line

    return read


def _history(readline: Any) -> Callable[[], None]:
    """Read the history; what is to be called after each line, because a prompt may be killed."""
    try:
        path = state_folder() / "history"
        path.touch(mode=0o600)
        readline.read_history_file(path)
        if readline.get_current_history_length() > 2 * _HISTORY:
            readline.set_history_length(_HISTORY)
            readline.write_history_file(path)
        readline.set_history_length(-1)
    except OSError as error:
        print(f"mpiframe: no history is kept: {error}", file=sys.stderr)
        return lambda: None
    length = readline.get_current_history_length()

    def remember() -> None:
        nonlocal length
        now = readline.get_current_history_length()
        if now > length:
            with contextlib.suppress(OSError):  # a full disk is no reason to lose a line that was typed
                readline.append_history_file(now - length, path)
        length = now

    return remember
