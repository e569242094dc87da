"""The prompt of IPython: its application with the user's own configuration, and what a client adds to it."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable
from typing import Any

from IPython.terminal.interactiveshell import TerminalInteractiveShell
from IPython.terminal.ipapp import TerminalIPythonApp
from IPython.terminal.prompts import RichPromptDisplayHook
from prompt_toolkit.application import run_in_terminal
from traitlets.config import Config

from mpiframe import output
from mpiframe.launcher.foreground import is_ours
from mpiframe.shell import magics
from mpiframe.shell.live import Waiting
from mpiframe.shell.plain import state_folder


class _Display(RichPromptDisplayHook):
    """Shows a value in one piece: what servers print meanwhile comes after it."""

    def __call__(self, result: Any = None) -> None:
        meanwhile = Waiting(lambda: None)
        try:
            with output.beside_prompt(meanwhile):
                super().__call__(result)  # type: ignore[no-untyped-call]
        finally:
            _show(meanwhile)


class Shell(TerminalInteractiveShell):
    """IPython's prompt, above which appears what servers print."""

    displayhook_class = _Display
    _above: _Above | None = None

    def prompt_for_code(self) -> Any:
        """Read a cell."""
        session: Any = self.pt_app
        if session is None:  # `--simple-prompt`, or what is no terminal
            return super().prompt_for_code()  # type: ignore[no-untyped-call]
        self._above = above = _Above(session.app)
        try:
            with output.beside_prompt(above.stream):
                return super().prompt_for_code()  # type: ignore[no-untyped-call]
        finally:
            above.finish()

    def _extra_prompt_options(self) -> Any:
        options = super()._extra_prompt_options()  # type: ignore[no-untyped-call]
        if self._above is not None:
            options["pre_run"] = self._above.begin
        return options


class _Above:
    """Prints above a prompt while it is shown, in its own loop; and what is left, when it is not."""

    _PAUSE = 0.05  # seconds between two prints, each of which draws the prompt again

    def __init__(self, app: Any) -> None:
        self.stream = Waiting(self._wake)
        self._app = app
        self._loop: Any = None  # of the prompt that is shown
        self._due = False  # `_in_loop` will be called

    def begin(self) -> None:
        """The prompt is shown, from its loop."""
        self._loop = self._app.loop
        self._loop.call_soon(self._in_loop)

    def finish(self) -> None:
        """The prompt is gone."""
        self._loop = None
        _show(self.stream)

    def _wake(self) -> None:
        loop = self._loop
        if loop is not None and not self._due:
            self._due = True
            with contextlib.suppress(RuntimeError):  # the loop has just ended: `finish` comes
                loop.call_soon_threadsafe(lambda: loop.call_later(self._PAUSE, self._in_loop))

    def _in_loop(self) -> None:
        self._due = False
        if self._app.is_running and not self.stream.empty:
            run_in_terminal(lambda: _show(self.stream))


def _show(stream: Waiting) -> None:
    text = stream.take()
    if text and sys.__stdout__ is not None:
        sys.__stdout__.write(text)
        sys.__stdout__.flush()


class _App(TerminalIPythonApp):
    """IPython, with the user's configuration and then ours."""

    def load_config_file(self, *args: Any, **options: Any) -> None:
        """Ours goes before the user's."""
        super().load_config_file(*args, **options)  # type: ignore[no-untyped-call]
        self.update_config(_settings())


def _settings() -> Config:
    settings = Config()
    settings.TerminalIPythonApp.display_banner = False
    settings.TerminalIPythonApp.interactive_shell_class = Shell
    settings.TerminalInteractiveShell.term_title_format = "mpiframe"
    try:
        settings.HistoryManager.hist_file = str(state_folder() / "ipython-history.sqlite")
    except OSError as error:
        print(f"mpiframe: no history is kept: {error}", file=sys.stderr)
        settings.HistoryManager.enabled = False
    return settings


def interact(client: Any, banner: str, ready: Callable[[], None]) -> int:
    """A prompt in the terminal, until its end; the exit status. `ready` is called just before it shows."""
    import mpiframe

    before = sys.modules["__main__"]
    app: Any = _App.instance()
    try:
        app.initialize([])
        shell = app.shell
        shell.push({"client": client, "mpiframe": mpiframe}, interactive=False)
        magics.load(client, shell)
        if not is_ours(0):
            _without_suspend(shell)
        print(banner, end="", flush=True)
        with _signals_kept():
            ready()
            app.start()
        return 0
    finally:
        sys.modules["__main__"] = before
        Shell.clear_instance()
        _App.clear_instance()


@contextlib.contextmanager
def _signals_kept() -> Any:
    """IPython's loops leave handlers of their own."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGINT, before)


def _without_suspend(shell: Any) -> None:
    """Ctrl-Z does nothing on a terminal that was lent: nobody would take it while this process is stopped."""
    if shell.pt_app is not None:
        shell.pt_app.key_bindings.add("c-z", eager=True)(lambda _event: None)
