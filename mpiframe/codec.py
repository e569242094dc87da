"""Objects to bytes and back: pickle 5 with out-of-band buffers, plain values as they are.

Two layers. A *frame* is `marshal` data of plain tuples: it holds ids, modes and payloads, and costs half
of what pickle costs for them. It is only ever read from our own ranks, which run the same Python.
A *payload* is what the user passed or got back: plain values travel inside the frame, all else is pickle
data, each in its own bytes, so that what cannot be unpickled spoils one request only.
"""

from __future__ import annotations

import importlib
import itertools
import marshal
import operator
import pickle
import sys
import types
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from mpiframe.errors import SerializationError
from mpiframe.messages import Buffers

_PLAIN = frozenset((type(None), bool, int, float, complex, str, bytes))
_SMALL = 4096  # plain strings and bytes above this are pickled, so that large ones go beside the frame


def pack(message: tuple[Any, ...]) -> bytes:
    """A frame of plain tuples, lists, strings, bytes and numbers."""
    return marshal.dumps(message, 4)


unpack: Callable[[bytes | bytearray | memoryview], tuple[Any, ...]] = marshal.loads


def is_plain(value: object) -> bool:
    """Whether the value can travel inside a frame as it is, its type unchanged."""
    kind = type(value)
    return kind in _PLAIN and not ((kind is str or kind is bytes) and len(value) > _SMALL)  # type: ignore[arg-type]


def dumps(value: object, large: int) -> tuple[bytes, Buffers]:
    """Pickle `value`; buffers of `large` bytes and more are returned beside the data, uncopied.

    What plain pickle would store as a name in ``__main__`` is stored by value (cloudpickle), because the
    other rank's ``__main__`` is another one. Raises whatever pickling raises.
    """
    buffers: list[Any] = []

    def keep_inside(buffer: pickle.PickleBuffer) -> bool:
        try:
            raw = buffer.raw()
        except BufferError:  # not contiguous: pickle copies it into the stream
            return True
        if raw.nbytes < large:
            return True
        buffers.append(raw)
        return False

    if not _by_value_modules():
        try:
            data = pickle.dumps(value, 5, buffer_callback=keep_inside)
        except Exception:  # lambdas, local classes and the like: cloudpickle decides whether it is an error
            data = b"__main__"
        if b"__main__" not in data:
            return data, buffers
        buffers.clear()
    return _cloudpickle().dumps(value, 5, buffer_callback=keep_inside), buffers


def loads(data: bytes | bytearray | memoryview, buffers: Sequence[Any] = ()) -> Any:
    """Unpickle; arrays are built on `buffers` without a copy."""
    return pickle.loads(data, buffers=buffers)


def encode(value: object, large: int) -> tuple[bool, Any, Buffers]:
    """(pickled?, payload for the frame, buffers)."""
    if is_plain(value):
        return False, value, ()
    if type(value) in (str, bytes):
        # Pickle keeps strings and bytes in its stream; as a buffer they travel uncopied.
        data, buffers = dumps(_Long(value), large)  # type: ignore[arg-type]
        return True, data, buffers
    data, buffers = dumps(value, large)
    return True, data, buffers


class _Long:
    """A long string or bytes object, pickled by way of a buffer."""

    __slots__ = ("value",)

    def __init__(self, value: str | bytes) -> None:
        self.value = value

    def __reduce_ex__(self, protocol: object) -> tuple[Any, ...]:
        if isinstance(self.value, str):
            return _rebuild_str, (pickle.PickleBuffer(self.value.encode("utf-8", "surrogatepass")),)
        return bytes, (pickle.PickleBuffer(self.value),)


def _rebuild_str(data: Any) -> str:
    return str(data, "utf-8", "surrogatepass")


def blame(args: Sequence[object], kwargs: dict[str, object], cause: BaseException) -> SerializationError:
    """An error that names the argument which cannot be pickled."""
    named = [(f"argument {i}", value) for i, value in enumerate(args, 1)]
    named += [(f"argument {name!r}", value) for name, value in kwargs.items()]
    for name, value in named:
        try:
            dumps(value, sys.maxsize)
        except Exception as error:
            kind = type(value).__qualname__
            return SerializationError(
                f"{name} (a {kind}) cannot be pickled, so it cannot be sent to a server: {error}"
            )
    return SerializationError(f"the arguments cannot be pickled: {cause}")


def _cloudpickle() -> types.ModuleType:
    import cloudpickle  # late: it takes a fifth of our whole import time, and plain runs never need it

    return cloudpickle  # type: ignore[no-any-return]


def _by_value_modules() -> bool:
    module = sys.modules.get("cloudpickle")
    return bool(module and module.list_registry_pickle_by_value())


class ByName:
    """Stands for a function of a module that the servers have and this process need not import."""

    def __init__(self, module: str, name: str) -> None:
        self.__module__ = module
        self.__qualname__ = name

    def __call__(self, *_: Any) -> Any:
        raise TypeError(f"{self.__module__}.{self.__qualname__} can be called on a server only")

    def __reduce__(self) -> tuple[Any, ...]:
        return _find, (self.__module__, self.__qualname__)


def _find(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


# -- functions -----------------------------------------------------------------------------------------


class FunctionCache:
    """The client's side of "a function is pickled once, and sent once to each server".

    A function that travels by name, or that refers only to things which cannot change (numbers, strings,
    modules, other such functions), is pickled once; a function whose closure, defaults or globals hold
    something mutable is pickled at each use, so that the servers always see what the client sees now.
    """

    def __init__(self, size: int = 1024) -> None:
        self._known: OrderedDict[int, tuple[Callable[..., Any], tuple[Any, ...], int, bytes]] = OrderedDict()
        self._simple: dict[int, tuple[Any, ...]] = {}  # of those that refer to nothing: by id, how they are
        self._keys: dict[bytes, int] = {}
        self._next_key = itertools.count(1)  # a key is never used for a second function
        self._size = size

    def lookup(self, function: Callable[..., Any]) -> tuple[int, bytes] | None:
        """(key, pickle data) if the function may be cached on servers, else None.

        Raises whatever pickling raises.
        """
        simple = self._simple.get(id(function))
        if (
            simple is not None
            and simple[0] is function
            and function.__code__ is simple[1]
            and function.__defaults__ is None
            and function.__kwdefaults__ is None
            and not function.__dict__
        ):
            return simple[2]  # type: ignore[no-any-return]
        marks = _referents(function)
        if marks is None:
            return None
        known = self._known.get(id(function))
        if known is not None and len(known[1]) == len(marks) and all(map(operator.is_, known[1], marks)):
            return known[2], known[3]
        data, buffers = dumps(function, sys.maxsize)
        assert not buffers
        key = self._keys.get(data)
        if key is None:
            key = self._keys[data] = next(self._next_key)
        self._known[id(function)] = (function, marks, key, data)  # holds it, so its id stays its own
        if len(marks) == 1 and type(function) is types.FunctionType and not travels_by_name(function):
            if not function.__closure__ and function.__defaults__ is None and not function.__kwdefaults__:
                self._simple[id(function)] = (function, function.__code__, (key, data))
        if len(self._known) > self._size:
            self._simple.pop(self._known.popitem(last=False)[0], None)
        return key, data

    def full(self) -> bool:
        """Whether so many functions were seen that everyone should forget them all."""
        return len(self._keys) > 4 * self._size

    def clear(self) -> None:
        """Forget every function; the servers are told to do the same."""
        self._known.clear()
        self._simple.clear()
        self._keys.clear()


_names: OrderedDict[types.CodeType, tuple[str, ...]] = OrderedDict()


def global_names(code: types.CodeType) -> tuple[str, ...]:
    """The names that this code, or code inside it, may look up as globals (attributes are among them)."""
    known = _names.get(code)
    if known is None:
        found = dict.fromkeys(code.co_names)
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                found.update(dict.fromkeys(global_names(constant)))
        known = _names[code] = tuple(found)
        if len(_names) > 4096:
            _names.popitem(last=False)
    return known


def travels_by_name(value: Any) -> bool:
    """Whether pickle stores this function, class or module as an importable name."""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str) or module in ("__main__", "__mp_main__"):
        return False
    if _by_value_modules():
        return False
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found is value


_FIXED = _PLAIN | {range, type(Ellipsis), object}
_ABSENT = object()  # stands for a global name that has no value now, but may get one


def _referents(function: Any, depth: int = 0) -> tuple[Any, ...] | None:
    """All that the function refers to, or None if some of it may change unseen."""
    if travels_by_name(function):
        return (function,)
    if type(function) is not types.FunctionType or depth > 8 or function.__dict__:
        return None
    code, space = function.__code__, function.__globals__
    values: list[Any] = [space.get(n, _ABSENT) for n in global_names(code)]
    values += function.__defaults__ or ()
    values += (function.__kwdefaults__ or {}).values()
    for cell in function.__closure__ or ():
        try:
            values.append(cell.cell_contents)
        except ValueError:  # not yet assigned
            return None
    marks: list[Any] = [code]
    for value in values:
        marks.append(value)
        if value is function or type(value) in _FIXED:
            continue
        if type(value) is types.ModuleType and sys.modules.get(value.__name__) is value:
            continue  # any other module travels by value, with all that it holds
        if callable(value):
            inner = _referents(value, depth + 1)
            if inner is not None:
                marks.extend(inner)
                continue
        return None
    return tuple(marks)
