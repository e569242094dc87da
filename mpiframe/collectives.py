"""The client's side of collectives: what each verb makes of the values, and which commands it is made of."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy

from mpiframe.codec import ByName, blame
from mpiframe.commands import Encoded
from mpiframe.errors import (
    CommandArgumentError,
    CommandCancelled,
    CommandSyntaxError,
    SerializationError,
)
from mpiframe.messages import Mode
from mpiframe.targets import Target, each, resolve

if TYPE_CHECKING:
    from mpiframe.answers import CommandFuture
    from mpiframe.verbs import Verbs

_CHUNKS = 8
"""Commands that a server's part of a reduction is sent in, so that it can begin before all is there."""
_SPMD, _RELAY, _PUT, _EVALUATE, _FINISH, _FOLD, _FORGET = (
    ByName("mpiframe.group", name)  # not imported: an attached process has no MPI
    for name in ("spmd", "relay", "put", "evaluate", "finish", "fold", "forget")
)
_MISSING: Any = object()


def members(client: Verbs, target: Target) -> list[int]:
    """The ranks of a target, each of them once. Raises CommandArgumentError for None."""
    if target is None:
        raise CommandArgumentError(
            'a collective needs to know its servers: target is a rank, a list, or "all"'
        )
    ranks = each(resolve(target, client._loop.dispatcher))
    if len(set(ranks)) < len(ranks):
        raise CommandArgumentError(f"target={target!r} names a server twice")
    return ranks


# -- the verbs -----------------------------------------------------------------------------------------


def spmd(
    client: Verbs,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    target: Target,
    timeout: float | None,
    kwargs: dict[str, Any],
) -> list[Any]:
    """See `Client.spmd`."""
    if not callable(function):
        raise CommandArgumentError(f"spmd calls a function of a communicator; {function!r} is none")
    ranks = members(client, target)
    encoded = client._encoder.call(_SPMD, (tuple(ranks), function, args, kwargs), {})
    label = getattr(function, "__qualname__", repr(function))
    return client._together(label, [(rank, encoded) for rank in ranks], timeout)


def broadcast(client: Verbs, target: Target, variables: dict[str, Any]) -> None:
    """See `Client.broadcast`."""
    ranks = members(client, target)
    _check_names("broadcast", variables)
    label = f"broadcast {', '.join(variables)}"
    # On the client's own host each server fetches it from our memory, all at once. Measured with 64 MiB and
    # two servers: 6 ms; MPI_Bcast into memory in use 6 ms, into new memory 11 ms; a shared memory file 27 ms,
    # because its pages are new each time.
    near = [rank for rank in ranks if client._is_near(rank)]
    far = [rank for rank in ranks if rank not in near]
    if len(far) == 1:
        near, far = ranks, []
    waiting = _put(client, near, label, variables) if near else []
    if far:
        try:
            whole = client._encoder.call(_RELAY, (tuple(far), variables), {})
        except SerializationError as error:
            raise blame((), variables, error) from error
        nothing = client._encoder.call(_RELAY, (tuple(far), None), {})
        parts = [(rank, nothing if index else whole) for index, rank in enumerate(far)]
        client._together(label, parts, None)
    _results(waiting)


def _check_names(verb: str, variables: dict[str, Any]) -> None:
    if not variables:
        raise CommandArgumentError(f"{verb} takes variables by name, as in {verb}(table=array)")


def scatter(client: Verbs, target: Target, variables: dict[str, Any]) -> None:
    """See `Client.scatter`."""
    ranks = members(client, target)
    _check_names("scatter", variables)
    parts = {name: split(value, len(ranks), name) for name, value in variables.items()}
    label = f"scatter {', '.join(variables)}"
    waiting = []
    for index, rank in enumerate(ranks):
        own = {name: pieces[index] for name, pieces in parts.items()}
        waiting += _put(client, rank, label, own)
    _results(waiting)


def _put(client: Verbs, ranks: int | list[int], label: str, variables: dict[str, Any]) -> list[CommandFuture]:
    try:
        return client._call(ranks, label, _PUT, variables)
    except SerializationError as error:
        raise blame((), variables, error) from error  # which names the variable


def split(value: Any, count: int, name: str) -> list[Any]:
    """So many contiguous parts, the first ones longer by one where it does not come out even."""
    if isinstance(value, numpy.ndarray):
        if value.ndim == 0:
            raise CommandArgumentError(f"{name} is an array without dimensions, which cannot be scattered")
        return numpy.array_split(value, count)
    try:
        fits = isinstance(value, Sequence) and not isinstance(value, (str, bytes)) and value[:0] is not None
    except TypeError:  # a sequence without slices
        fits = False
    if not fits:
        raise CommandArgumentError(f"{name} is a {type(value).__name__}; scatter takes arrays, lists, tuples")
    size, rest = divmod(len(value), count)
    starts = [index * size + min(index, rest) for index in range(count + 1)]
    return [value[a:b] for a, b in itertools.pairwise(starts)]


def gather(client: Verbs, expression: str, target: Target) -> Any:
    """See `Client.gather`."""
    ranks = members(client, target)
    encoded = _expression(client, "gather", expression)
    values = _results([client._submit(expression, encoded, rank, None, 0) for rank in ranks])
    if all(isinstance(value, numpy.ndarray) and value.ndim > 0 for value in values):
        masked = any(isinstance(value, numpy.ma.MaskedArray) for value in values)
        return numpy.ma.concatenate(values) if masked else numpy.concatenate(values)  # type: ignore[no-untyped-call]
    for kind in (list, tuple):
        if all(type(value) is kind for value in values):
            return kind(itertools.chain.from_iterable(values))
    return values


def _expression(client: Verbs, verb: str, source: Any) -> Encoded:
    """Raises CommandArgumentError or CommandSyntaxError for what is no expression."""
    if not isinstance(source, str):
        raise CommandArgumentError(f"{verb} takes the name of a variable or an expression, not {source!r}")
    encoded = client._encoder.encode(source, None)
    if encoded.mode != Mode.EVAL:
        raise CommandSyntaxError(
            f"{verb} takes an expression, which has a value, and no statement: {source!r}"
        )
    return encoded


def reduce(
    client: Verbs,
    op: Callable[[Any, Any], Any],
    function: Callable[..., Any] | str,
    iterables: tuple[Iterable[Any], ...],
    target: Target,
    initial: Any = _MISSING,
    name: str | None = None,
) -> Any:
    """See `Client.reduce` and `Client.allreduce`."""
    ranks = members(client, target)
    if not callable(op):
        raise CommandArgumentError(f"op must be a function of two arguments, not {op!r}")
    number = client._new_number()
    if isinstance(function, str):
        if iterables:
            raise CommandArgumentError("an expression is evaluated once on each server; it takes no items")
        source = _expression(client, "reduce", function).body
        items = []
    else:
        if not callable(function):
            raise CommandArgumentError(f"{function!r} is no function to be called on each item")
        if not iterables:
            raise CommandArgumentError("reduce needs items: an iterable for each argument of the function")
        items = list(zip(*iterables))  # noqa: B905 - the shortest ends it, as in map
        if not items:
            if initial is _MISSING or name is not None:
                raise CommandArgumentError("there are no items to reduce, and no initial value")
            return initial
    waiting: list[CommandFuture] = []
    try:
        if isinstance(function, str):
            waiting += client._call(ranks, function, _EVALUATE, number, source)
        else:
            for future in _fold(client, ranks, number, op, function, items):
                waiting.append(future)
        _results(waiting)
        label = f"reduce {getattr(function, '__qualname__', function)}"
        encoded = client._encoder.call(_FINISH, (number, tuple(ranks), op, name), {})
        if len(ranks) > 1:
            total = client._together(label, [(rank, encoded) for rank in ranks], None)[0]
        else:
            total = client._submit(label, encoded, ranks[0], None, 0).result()
    except BaseException:
        for future in waiting:
            future.cancel()
        alive = [rank for rank in ranks if client._loop.dispatcher.is_live(rank)]
        client._service(alive, "forget a reduction", _FORGET, number)
        raise
    return total if initial is _MISSING else op(initial, total)


def _fold(
    client: Verbs,
    ranks: list[int],
    number: int,
    op: Callable[[Any, Any], Any],
    function: Callable[..., Any],
    items: list[tuple[Any, ...]],
) -> Iterable[CommandFuture]:
    """Each server gets a contiguous part, so that what is combined with what depends on nothing else."""
    label = getattr(function, "__qualname__", repr(function))
    index = 0
    for rank, part in zip(ranks, split(items, len(ranks), "items"), strict=True):
        size = max(math.ceil(len(part) / _CHUNKS), 1)
        for start in range(0, len(part), size):
            chunk = part[start : start + size]
            encoded = client._encoder.call(_FOLD, (number, op, function, chunk), {})
            yield client._submit(label, encoded, rank, None, 0, index)
            index += len(chunk)


def _results(futures: list[CommandFuture]) -> list[Any]:
    """Their values; the error of the first one that failed, when none is under way any more."""
    first: BaseException | None = None
    values = []
    for future in futures:
        try:
            values.append(future.result())
        except CommandCancelled:
            raise
        except Exception as error:
            first = first or error
    if first is not None:
        raise first
    return values
