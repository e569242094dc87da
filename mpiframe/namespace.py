"""Runs one command after another in a namespace of the user's own.

The namespace is a real module named ``__main__``, so that classes and functions made by commands behave as
in a script, and the runtime's own names are never in it. Its ``__builtins__`` are a copy: a command that
rebinds them changes its own world only.
"""

from __future__ import annotations

import builtins
import itertools
import linecache
import os
import sys
import traceback
import types
import weakref
from collections import OrderedDict
from collections.abc import Callable, MutableMapping, Sequence
from typing import Any

from mpiframe.codec import global_names
from mpiframe.messages import Mode

LIVE = vars(builtins)  # by its own name: while a command has them broken, no builtin can be looked up
PRISTINE = dict(LIVE)
EXPECTED = dict(LIVE)
"""What `LIVE` is as long as no command has changed it."""
_OWN_FILE = __file__
_SOURCES = 4096  # strings whose code and source lines are kept


class ItemError(Exception):
    """Marks which item of a map raised; `index` counts within the chunk."""

    def __init__(self, index: int, error: BaseException) -> None:
        super().__init__(index, error)
        self.index = index
        self.error = error


class Namespace:
    """A server's user namespace, and the ways to run a command in it."""

    def __init__(self) -> None:
        self.module = types.ModuleType("__main__")
        own = types.ModuleType("builtins")
        vars(own).update(PRISTINE)
        self.names: dict[str, Any] = vars(self.module)
        self.names["__builtins__"] = self._builtins = own
        self._codes: OrderedDict[tuple[int, str], tuple[types.CodeType, bool]] = OrderedDict()
        self._count = 0
        self._borrows: MutableMapping[Any, tuple[tuple[str, ...], bool]] = weakref.WeakKeyDictionary()

    def install(self) -> None:
        """Become ``__main__``, so that pickle and `typing.get_type_hints` look names up here."""
        sys.modules["__main__"] = self.module

    # -- strings ----------------------------------------------------------------------------------

    def run_string(self, mode: int, source: str, parameters: dict[str, Any] | None) -> Any:
        """Evaluate or execute `source`; the value of an expression, else None."""
        known = self._codes.get((mode, source))
        code, touches = known if known is not None else self._compile(mode, source)
        self.names["__builtins__"] = self._builtins
        if parameters is None:
            try:
                return eval(code, self.names)
            finally:
                if touches:
                    restore_builtins()
        before = {name: self.names[name] for name in parameters if name in self.names}
        self.names.update(parameters)
        try:
            return eval(code, self.names)
        finally:
            self._take_back(parameters, before)
            if touches:
                restore_builtins()

    def _take_back(self, parameters: dict[str, Any], before: dict[str, Any]) -> None:
        """Parameters last for one command; a name that the command bound anew is its own and stays."""
        for name, value in parameters.items():
            if self.names.get(name, self) is value:
                if name in before:
                    self.names[name] = before[name]
                else:
                    del self.names[name]

    def _compile(self, mode: int, source: str) -> tuple[types.CodeType, bool]:
        self._count += 1
        filename = f"<command {self._count}>"
        code = compile(source, filename, "eval" if mode == Mode.EVAL else "exec", dont_inherit=True)
        linecache.cache[filename] = (len(source), None, source.splitlines(True), filename)
        known = self._codes[mode, source] = (code, "builtins" in source)
        if len(self._codes) > _SOURCES:
            old = self._codes.popitem(last=False)[1][0]
            linecache.cache.pop(old.co_filename, None)
        return known

    # -- callables --------------------------------------------------------------------------------

    def call(self, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Call `function`, which may use names of this namespace that its own module does not have."""
        touches = self._lend(function)
        try:
            return function(*args, **kwargs)
        finally:
            if touches:
                restore_builtins()

    def call_each(self, function: Callable[..., Any], single: bool, items: Sequence[Any]) -> list[Any]:
        """Call `function` on each item, or on each tuple of arguments; ItemError says which one raised."""
        touches = self._lend(function)
        values: list[Any] = []
        wanted, made = len(items), values.__len__  # the function may do away with `len`
        try:
            # What was made before an item raised is in the list, so its length tells which one did.
            values.extend(map(function, items) if single else itertools.starmap(function, items))
            if made() < wanted:  # `extend` takes this exception for the end of the items
                raise StopIteration("raised by the function of a map")
        except BaseException as error:
            raise ItemError(made(), error) from error
        finally:
            if touches:
                restore_builtins()
        return values

    def _lend(self, function: Any) -> bool:
        """Give a function from the client's script what it looks up and did not bring along.

        Returns whether its code mentions the builtins.
        """
        while type(function) is not types.FunctionType:
            function = getattr(function, "func", None) or getattr(function, "__func__", None)
            if function is None:
                return False
        if function.__globals__.get("__name__") != "__main__":
            return False
        known = self._borrows.get(function)
        if known is None:
            seen: dict[str, None] = {}
            _collect(function, function.__globals__, seen, set())
            own = function.__globals__
            names = tuple(n for n in seen if n not in own and n not in PRISTINE)
            known = self._borrows[function] = (names, any("builtins" in n for n in seen))
        names, touches = known
        space, own = self.names, function.__globals__
        for name in names:
            if name in space:
                own[name] = space[name]
            else:
                own.pop(name, None)  # lent before, and gone since
        return touches


def _collect(function: Any, space: dict[str, Any], seen: dict[str, None], done: set[int]) -> None:
    """All global names used by `function` and by the functions it reaches in the same globals."""
    if id(function) in done:
        return
    done.add(id(function))
    for name in global_names(function.__code__):
        seen[name] = None
        value = space.get(name)
        if type(value) is types.FunctionType and value.__globals__ is space:
            _collect(value, space, seen, done)


def restore_builtins() -> None:
    """Undo what a command did to the interpreter's own builtins; names that it added stay."""
    LIVE.update(PRISTINE)
    EXPECTED.clear()
    EXPECTED.update(LIVE)


def describe(error: BaseException) -> tuple[str, str]:
    """(traceback text with source lines, one-line summary); the runtime's own frames are left out."""
    tb = error.__traceback__
    while tb is not None and not _is_users(tb):
        tb = tb.tb_next
    try:
        text = "".join(traceback.format_exception(type(error), error, tb))
        summary = "".join(traceback.format_exception_only(type(error), error)).strip().splitlines()[-1]
    except Exception as broken:  # an exception whose __str__ raises
        summary = f"{type(error).__qualname__} (its text cannot be had: {type(broken).__name__})"
        text = "".join(traceback.format_tb(tb)) + summary
    return text, summary


def _is_users(tb: types.TracebackType) -> bool:
    name = tb.tb_frame.f_code.co_filename
    return name != _OWN_FILE and not name.endswith(
        (
            "mpiframe/server.py",
            "mpiframe/execution.py",
            "mpiframe/plugin_host.py",
            "mpiframe/shell/cells.py",
            "mpiframe/compat/casampi/_on_server.py",
        )
    )


def add_to_path(entries: Sequence[str]) -> None:
    """Let modules of an attached process be found here, after all that could be found before."""
    sys.path.extend([entry for entry in entries if entry not in sys.path and os.path.isdir(entry)])
