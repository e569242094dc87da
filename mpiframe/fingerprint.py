"""Digests of functions and of values that are the same in every process.

Pickle data would not do: it depends on which equal objects are one object, and on the order of sets. So
values are taken apart here, as pickle does it, and what has no order is put into one. A function is its code
(without line numbers), defaults, closure, and the globals it looks up; the functions and classes of the
user's that it reaches are taken apart too. What is installed (the standard library, site-packages) counts by
its name.
"""

from __future__ import annotations

import builtins
import copyreg
import dis
import functools
import operator
import struct
import sys
import sysconfig
import types
from collections import deque
from collections.abc import Callable
from hashlib import blake2b
from typing import Any

from mpiframe.errors import JournalError

SIZE = 16  # bytes of a digest

_MAIN = ("__main__", "__mp_main__")
_INSTALLED = tuple(
    {sysconfig.get_paths()[name] + "/" for name in ("stdlib", "platstdlib", "purelib", "platlib")}
)
_NO_PART_OF_A_CLASS = {"__dict__", "__weakref__", "__doc__", "__module__", "_abc_impl"}
_NO_PART_OF_A_CLASS |= {"__firstlineno__", "__static_attributes__"}  # of Python 3.13
_PYTHON = "the version of Python"


def _hash(data: bytes) -> bytes:
    return blake2b(data, digest_size=SIZE).digest()


class Fingerprinter:
    """Takes functions and values apart; what it has found out about a class or function it keeps."""

    def __init__(self) -> None:
        self._contents: dict[int, tuple[Any, bytes]] = {}  # by id; holds them, so that ids stay their own

    def value(self, value: Any) -> bytes:
        """The digest of a value. Raises JournalError for what cannot be taken apart, such as an open file."""
        form = _plain(value)
        if form is not None:
            return _hash(form)
        try:
            return _Walk(self._content).digest(value)
        except RecursionError:
            raise JournalError("it is nested too deeply to be compared with what was recorded") from None

    def function(self, function: Any) -> dict[str, str]:
        """What the function is made of: digests by what a user calls these parts.

        Raises JournalError if the callable is an object that cannot be taken apart.
        """
        return {_PYTHON: "{}.{}".format(*sys.version_info), **_Parts().of(function)}

    def _content(self, value: Any) -> bytes:
        known = self._contents.get(id(value))
        if known is None:
            known = self._contents[id(value)] = (value, summary(_Parts().of(value)))
        return known[1]


def summary(parts: dict[str, str]) -> bytes:
    """One digest for all that `Fingerprinter.function` found."""
    lines = [f"{name}\t{parts[name]}" for name in sorted(parts)]
    return _hash("\n".join(lines).encode("utf-8", "surrogatepass"))


def changes(before: dict[str, str], now: dict[str, str]) -> list[str]:
    """Which parts differ; those of Python itself go before all others, for they change these too."""
    if before.get(_PYTHON) != now.get(_PYTHON):
        return [f"{_PYTHON} ({before.get(_PYTHON)} then, {now.get(_PYTHON)} now)"]
    return sorted(name for name in {**before, **now} if before.get(name) != now.get(name))


def name_of(function: Any) -> str:
    """What a callable is called in messages, and in the name of its part of a journal."""
    if isinstance(function, str):
        return "a string"
    if isinstance(function, functools.partial):
        return f"partial({name_of(function.func)})"
    name = getattr(function, "__qualname__", None) or f"a {type(function).__qualname__}"
    module = getattr(function, "__module__", None)
    return name if not isinstance(module, str) or module in _MAIN else f"{module}.{name}"


# -- values ----------------------------------------------------------------------------------------


def _plain(value: object) -> bytes | None:
    """A value that has no parts, as bytes; None for all others."""
    if type(value) is int:
        return b"i%x" % value
    if type(value) is str:
        return b"s" + value.encode("utf-8", "surrogatepass")
    if type(value) is float:
        return b"f" + struct.pack("<d", value)
    if type(value) is bytes:
        return b"b" + value
    if type(value) is bool:
        return b"t%d" % value
    return b"n" if value is None else None


class _Walk:
    """One look through a value. `reach` says what stands for a function or class of the user's."""

    def __init__(self, reach: Callable[[Any], bytes]) -> None:
        self._reach = reach
        self._seen: dict[int, tuple[Any, bytes]] = {}
        self._inside: dict[int, int] = {}  # what this is a part of, outermost first

    def digest(self, value: Any) -> bytes:
        form = _plain(value)
        if form is not None:
            return _hash(form)
        key = id(value)
        known = self._seen.get(key)
        if known is not None:
            return known[1]
        if key in self._inside:
            return _hash(b"round%d" % self._inside[key])
        self._inside[key] = len(self._inside)
        found = self._compound(value)
        del self._inside[key]
        self._seen[key] = (value, found)
        return found

    def of(self, tag: str, *values: Any) -> bytes:
        """The digest of several values, in order."""
        return _hash(tag.encode() + b":" + b"".join(map(self.digest, values)))

    def _compound(self, value: Any) -> bytes:
        kind = type(value)
        if kind is tuple or kind is list:
            return self.of(kind.__name__, *value)
        if kind is dict:
            return self._dict(value.items())
        if kind is set or kind is frozenset:
            return _hash(kind.__name__.encode() + b":" + b"".join(sorted(map(self.digest, value))))
        if kind is bytearray:
            return _hash(b"bytearray" + value)
        if kind is types.CodeType:
            return _code(value)
        if kind is types.ModuleType:
            return self.of("module", value.__name__)
        if kind is types.FunctionType or isinstance(value, type):
            return self._reach(value) if _is_users(value) else self._name(value)
        numpy = sys.modules.get("numpy")
        if numpy is not None and (kind is numpy.ndarray or isinstance(value, numpy.generic)):
            return self._array(numpy, value)
        return self._reduced(value)

    def _dict(self, items: Any) -> bytes:
        # By the digests of the keys: the order may be that of a set from which it was made.
        by_key = sorted(((self.digest(key), value) for key, value in items), key=operator.itemgetter(0))
        return _hash(b"dict:" + b"".join(key + self.digest(value) for key, value in by_key))

    def _name(self, value: Any) -> bytes:
        return self.of("name", str(value.__module__), value.__qualname__)

    def _array(self, numpy: Any, array: Any) -> bytes:
        kind = array.dtype
        if kind.names:  # field by field: there may be gaps between them, filled with anything
            return self.of("fields", array.shape, repr(kind), *(array[name] for name in kind.names))
        if kind.hasobject:
            return self.of("objects", array.shape, *array.reshape(-1).tolist())
        if kind.char in "gG":  # long doubles have unused bytes, too
            with numpy.errstate(all="ignore"):
                high = array.astype("d" if kind.char == "g" else "D")
                return self.of("long", repr(kind), high, (array - high).astype(high.dtype))
        hasher = blake2b(f"array{array.shape}{kind!r}:".encode(), digest_size=SIZE)
        if array.size:
            hasher.update(numpy.ascontiguousarray(array).reshape(-1).view(numpy.uint8))
        return hasher.digest()

    def _reduced(self, value: Any) -> bytes:
        try:
            how = copyreg.dispatch_table.get(type(value))
            parts = how(value) if how is not None else value.__reduce_ex__(4)
        except RecursionError:
            raise
        except Exception as error:
            raise JournalError(
                f"a {type(value).__qualname__} cannot be compared with what was recorded: {error}. "
                'Journal(path, changed="keep") compares nothing'
            ) from error
        if isinstance(parts, str):  # a name that can be imported
            wrapped = getattr(value, "__wrapped__", None)  # as functools.lru_cache leaves it
            return self.of("global", getattr(value, "__module__", None), parts, wrapped)
        function, arguments, state, listed, keyed = (*parts, None, None, None)[:5]
        return _hash(
            self.of("object", function, arguments, state, list(listed or ()))
            + (self._dict(keyed) if keyed is not None else b"")
        )


@functools.lru_cache(4096)
def _code(code: types.CodeType) -> bytes:
    """What a code object does; where it stands in its file is no part of it."""
    return _Walk(lambda _: b"").of(  # constants reach no functions
        "code",
        (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags),
        code.co_code,
        getattr(code, "co_exceptiontable", b""),
        (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars),
        code.co_consts,
    )


# -- functions -------------------------------------------------------------------------------------


@functools.lru_cache(4096)
def _looked_up(code: types.CodeType) -> tuple[str, ...]:
    """The globals that this code, or code inside it, looks up; other than `co_names`, without attributes."""
    found = {
        str(step.argval)
        for step in dis.get_instructions(code)
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")
    }
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found.update(_looked_up(constant))
    return tuple(sorted(found))


def _names(code: types.CodeType) -> set[str]:
    found = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found |= _names(constant)
    return found


def _is_users(value: Any) -> bool:
    """Whether its source is the user's, and so may be another one in the next run."""
    if type(value) is types.FunctionType and "<" in value.__qualname__:
        return True  # a lambda, or made inside a function: its name does not say what it does
    return _is_users_module(getattr(value, "__module__", None))


def _is_users_module(name: Any) -> bool:
    if not isinstance(name, str) or name.partition(".")[0] == "mpiframe":
        return False
    if name in _MAIN:
        return True
    file = getattr(sys.modules.get(name), "__file__", None)
    if not isinstance(file, str):
        return name not in sys.modules  # built in, if it is there
    return not (file.startswith(_INSTALLED) or "/site-packages/" in file or "/dist-packages/" in file)


class _Parts:
    """All that a function or class is made of, with what it reaches, each by a name of its own."""

    def __init__(self) -> None:
        self._parts: dict[str, str] = {}
        self._labels: dict[int, str] = {}
        self._taken: set[str] = set()
        self._waiting: deque[Any] = deque()

    def of(self, value: Any) -> dict[str, str]:
        """The parts of a function, a class, or whatever else can be called."""
        if isinstance(value, str):
            return {"the text": _hash(value.encode("utf-8", "surrogatepass")).hex()}
        if (type(value) is types.FunctionType or isinstance(value, type)) and _is_users(value):
            self._reach(value)
        else:
            self._parts["the callable itself"] = self._digest(value, strict=True)
        while self._waiting:
            found = self._waiting.popleft()
            if isinstance(found, type):
                self._class(found, self._labels[id(found)])
            else:
                self._function(found, self._labels[id(found)])
        return self._parts

    def _reach(self, value: Any) -> bytes:
        """What stands for a function or class that is a part of its own; it is looked at later."""
        label = self._labels.get(id(value))
        if label is None:
            label = name = name_of(value)
            number = 1
            while label in self._taken:  # as lambdas in one function are
                number += 1
                label = f"{name} ({number})"
            self._taken.add(label)
            self._labels[id(value)] = label
            self._waiting.append(value)
        return _hash(b"part" + label.encode())

    def _digest(self, value: Any, strict: bool = False) -> str:
        try:
            return _Walk(self._reach).digest(value).hex()
        except JournalError:
            if strict:
                raise
        except RecursionError:
            pass
        return f"a {type(value).__qualname__}"  # a lock, a file: it is there, and that is all to be said

    def _function(self, function: types.FunctionType, label: str) -> None:
        parts, code, space = self._parts, function.__code__, function.__globals__
        parts[f"the code of {label}"] = _code(code).hex()
        positional = code.co_varnames[: code.co_argcount]
        defaults = function.__defaults__ or ()
        values = dict(zip(positional[len(positional) - len(defaults) :], defaults, strict=True))
        for name, value in {**values, **(function.__kwdefaults__ or {})}.items():
            parts[f"the default of {name} in {label}"] = self._digest(value)
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            try:
                parts[f"the variable {name} around {label}"] = self._digest(cell.cell_contents)
            except ValueError:
                parts[f"the variable {name} around {label}"] = "not assigned"
        if function.__dict__:
            parts[f"the attributes of {label}"] = self._digest(function.__dict__)
        of = "" if function.__module__ in _MAIN else f" of {function.__module__}"
        for name in _looked_up(code):
            if name in space:
                self._global(f"the global {name}{of}", space[name], code)
            elif not hasattr(builtins, name):
                parts[f"the global {name}{of}"] = "none"

    def _global(self, label: str, value: Any, code: types.CodeType) -> None:
        self._parts[label] = self._digest(value)
        if type(value) is types.ModuleType and _is_users_module(value.__name__):
            # `module.f` is an attribute for the bytecode; each name of this kind that is there may be meant.
            for name in sorted(_names(code) & vars(value).keys()):
                self._parts[f"{value.__name__}.{name}"] = self._digest(vars(value)[name])

    def _class(self, kind: type, label: str) -> None:
        self._parts[f"the bases of {label}"] = self._digest(kind.__bases__)
        for name, value in sorted(vars(kind).items()):
            if name in _NO_PART_OF_A_CLASS:
                continue
            if isinstance(value, (staticmethod, classmethod)):
                value = (type(value).__name__, value.__func__)
            elif isinstance(value, property):
                value = ("property", value.fget, value.fset, value.fdel)
            self._parts[f"{label}.{name}"] = self._digest(value)
