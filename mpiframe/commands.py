"""From what the user passes to what travels: checks a command at the call and makes its frame.

A command travels as the tuple (id, mode, body, function key, pickled, payload, number of buffers):

    string    body is the source; payload the parameters or None
    callable  body is its pickle data, left out once the server has it; payload (args, kwargs)
    callable that must not be cached (key 0): payload (callable, (args, kwargs))
"""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mpiframe import codec
from mpiframe.errors import CommandArgumentError, CommandSyntaxError, SerializationError
from mpiframe.messages import Buffers, Mode

_COMPILED = 4096

UNCOMPILABLE = (SyntaxError, ValueError, MemoryError, RecursionError, OverflowError)
"""What `compile` raises: ValueError for null bytes, on older Pythons; the last three for what is too deep."""


@dataclass(slots=True)  # not frozen: that makes it three times as slow to make
class Encoded:
    """A command that is ready to be sent, as often as there are targets."""

    mode: int
    body: Any
    function_key: int
    pickled: bool
    payload: Any
    buffers: Buffers
    pace_key: int

    def frame(self, id: int) -> tuple[Any, ...]:
        """What travels, for one request."""
        return (id, self.mode, self.body, self.function_key, self.pickled, self.payload, len(self.buffers))


class CommandEncoder:
    """Makes commands ready to be sent; remembers strings and functions it has seen."""

    def __init__(self, large: int, forget: Callable[[], None] = lambda: None, plain: bool = True) -> None:
        self._plain = plain  # whether arguments may travel as they are, instead of as pickle data
        self._forget = forget  # makes the servers drop the functions they have cached
        self.functions = codec.FunctionCache()
        self._large = large
        self._strings: dict[str, Encoded] = {}

    def encode(self, command: Any, parameters: Mapping[str, Any] | None) -> Encoded:
        """A string or callable with its `parameters` (variables of a string, keywords of a callable).

        Raises CommandSyntaxError, CommandArgumentError or SerializationError.
        """
        if parameters is not None:
            _check_parameters(parameters)
        if isinstance(command, str):
            known = self._strings.get(command) or self._string(command)
            return self._with_parameters(known, parameters) if parameters else known
        if callable(command):
            keywords = dict(parameters or {})
            _check_signature(command, (), keywords)
            return self.call(command, (), keywords)
        raise CommandArgumentError(
            f"a command is a string of Python or a callable, not {command!r} (a {type(command).__name__})"
        )

    def call(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Encoded:
        """A call of `function(*args, **kwargs)`."""
        if not callable(function):
            raise CommandArgumentError(f"{function!r} (a {type(function).__name__}) cannot be called")
        if self._plain and not kwargs and all(map(codec.is_plain, args)):
            return self._callable(Mode.CALL, function, (args, {}), plain=True)
        try:
            return self._callable(Mode.CALL, function, (args, kwargs), plain=False)
        except SerializationError:
            raise
        except Exception as error:
            raise codec.blame(args, kwargs, error) from error

    def chunk(self, function: Callable[..., Any], items: Sequence[Any], single: bool) -> Encoded:
        """One chunk of a map: `function` on each item (`single`), or on each tuple of arguments."""
        if not callable(function):
            raise CommandArgumentError(f"{function!r} (a {type(function).__name__}) cannot be called")
        try:
            return self._callable(Mode.MAP, function, (single, items), plain=False)
        except SerializationError:
            raise
        except Exception as error:
            raise SerializationError(f"an item of map cannot be pickled: {error}") from error

    def _string(self, source: str) -> Encoded:
        text, mode = source.strip(), Mode.EVAL
        try:
            compile(text, "<command>", "eval", dont_inherit=True)
        except UNCOMPILABLE:
            text, mode = _compile_statements(source), Mode.EXEC
        encoded = Encoded(int(mode), text, 0, False, None, (), hash(text))
        if len(self._strings) >= _COMPILED:
            self._strings.clear()
        self._strings[source] = encoded
        return encoded

    def _with_parameters(self, encoded: Encoded, parameters: Mapping[str, Any]) -> Encoded:
        values = dict(parameters)
        try:
            data, buffers = codec.dumps(values, self._large)
        except Exception as error:
            raise codec.blame((), values, error) from error
        return Encoded(encoded.mode, encoded.body, 0, True, data, buffers, encoded.pace_key)

    def _callable(self, mode: Mode, function: Any, arguments: Any, plain: bool) -> Encoded:
        if self.functions.full():
            # What is queued carries its functions along, and FORGET keeps its place in each server's FIFO.
            self.functions.clear()
            self._forget()
        try:
            cached = self.functions.lookup(function)
        except Exception as error:
            raise _unsendable(function, error) from error
        if cached is not None:
            key, data = cached
            if plain:
                return Encoded(int(mode), data, key, False, arguments, (), -key)
            payload, buffers = codec.dumps(arguments, self._large)
            return Encoded(int(mode), data, key, True, payload, buffers, -key)
        try:
            payload, buffers = codec.dumps((function, arguments), self._large)
        except Exception:
            try:
                codec.dumps(function, sys.maxsize)
            except Exception as error:
                raise _unsendable(function, error) from error
            raise  # then it is an argument
        return Encoded(
            int(mode), None, 0, True, payload, buffers, hash(getattr(function, "__qualname__", ""))
        )


def _unsendable(function: Any, error: BaseException) -> SerializationError:
    name = getattr(function, "__qualname__", repr(function))
    return SerializationError(
        f"the callable {name} cannot be pickled, so it cannot be sent to a server "
        f"(it, its closure or a global it uses holds something that cannot travel): {error}"
    )


def _compile_statements(source: str) -> str:
    """The source, dedented if that is what it takes; CommandSyntaxError with its caret if it is wrong."""
    try:
        compile(source, "<command>", "exec", dont_inherit=True)
        return source
    except IndentationError as error:
        dedented = textwrap.dedent(source)
        if dedented == source:
            raise _syntax_error(error, source) from None
    except UNCOMPILABLE as error:
        raise _syntax_error(error, source) from None
    try:
        compile(dedented, "<command>", "exec", dont_inherit=True)
    except UNCOMPILABLE as error:
        raise _syntax_error(error, dedented) from None
    return dedented


def _syntax_error(error: Exception, source: str) -> CommandSyntaxError:
    message = "the command does not compile: "
    if not isinstance(error, SyntaxError):
        return CommandSyntaxError(message + (str(error) or "it is nested too deeply"))
    text = error.text
    if text is None and error.lineno is not None:  # errors found after parsing come without their line
        text = source.splitlines()[error.lineno - 1]
    details = (error.filename, error.lineno, error.offset, text)
    return CommandSyntaxError(message + str(error.msg), details)


def _check_parameters(parameters: Any) -> None:
    if not isinstance(parameters, Mapping):
        raise CommandArgumentError(f"parameters must be a dict of names, not a {type(parameters).__name__}")
    for name in parameters:
        if not isinstance(name, str) or not name.isidentifier():
            raise CommandArgumentError(f"the parameter name {name!r} is no Python name")


def _check_signature(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # some builtins do not tell
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        name = getattr(function, "__qualname__", repr(function))
        raise CommandArgumentError(
            f"{name}{signature} cannot be called with these parameters: {error}"
        ) from None
