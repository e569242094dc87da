"""Runs one command that arrived and says how it ended: unpack, run in the namespace, pack the result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mpiframe import codec
from mpiframe.messages import Buffers, Mode, Outcome
from mpiframe.namespace import ItemError, Namespace, describe

_EXEC, _MAP = int(Mode.EXEC), int(Mode.MAP)  # looking a member up costs as much as a small command
_VALUE, _PICKLED = int(Outcome.VALUE), int(Outcome.PICKLED)

Ended = tuple[int, Any, Buffers]
"""(Outcome, payload, buffers)"""


class Executor:
    """One server's namespace, its cached functions, and the way a command goes through them."""

    def __init__(self, large: int) -> None:
        self.namespace = Namespace()
        self._functions: dict[int, Callable[..., Any] | BaseException] = {}
        self._unread: dict[int, bytes] = {}  # pickle data of functions that came and are yet to be called
        self._large = large

    def forget(self) -> None:
        """Drop the cached functions."""
        self._functions.clear()
        self._unread.clear()

    def keep(self, key: int, data: bytes | None) -> None:
        """Note the function of a command, though it may never run: the client will not send it again."""
        if data is not None and key not in self._functions:
            self._unread[key] = data

    def run(self, mode: int, body: Any, key: int, pickled: bool, payload: Any, buffers: Sequence[Any]) -> Any:
        """The value of the command; raises whatever it raises."""
        if mode <= _EXEC:
            return self.namespace.run_string(
                mode, body, codec.loads(payload, buffers) if pickled else payload
            )
        if key:
            function = self._function(key, body)
            arguments = codec.loads(payload, buffers) if pickled else payload
        else:
            function, arguments = codec.loads(payload, buffers)
        if mode == _MAP:
            return self.namespace.call_each(function, *arguments)
        args, kwargs = arguments
        return self.namespace.call(function, args, kwargs)

    def _function(self, key: int, data: bytes | None) -> Callable[..., Any]:
        known = self._functions.get(key)
        if known is None:
            self.keep(key, data)
            assert key in self._unread, f"function {key} was never sent here"
            try:
                known = codec.loads(self._unread[key])
            except Exception as error:  # kept: the client will not send it again
                known = error
            self._functions[key] = known
            self._unread.pop(key, None)
        if isinstance(known, BaseException):
            raise known
        return known

    def ended(self, value: Any) -> Ended:
        """The outcome of a command that returned `value`."""
        if value is None:
            return _VALUE, None, ()
        try:
            pickled, payload, buffers = codec.encode(value, self._large)
        except BaseException as error:  # a __reduce__ may raise anything, SystemExit included
            text, summary = describe(error)
            what = f"the result, a {type(value).__qualname__}, cannot be pickled: {summary}"
            return int(Outcome.UNSENDABLE), (text, what), ()
        return (_PICKLED if pickled else _VALUE), payload, buffers

    def raised(self, error: BaseException) -> Ended:
        """The outcome of a command that raised."""
        item = None
        if isinstance(error, ItemError):
            item, error = error.index, error.error
        text, summary = describe(error)
        data: bytes | None
        try:
            error.__traceback__ = None
            data, _ = codec.dumps(error, 1 << 62)
            codec.loads(data)  # one that cannot come back would be of no use at the client
        except BaseException:
            data = None
        return int(Outcome.RAISED), (data, text, summary, item), ()
