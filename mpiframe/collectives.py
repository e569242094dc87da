"""The client's side of collectives: one command on each member, all queued at once, one end for all.

    client              member 1            member 2 (busy)
    queues both   --->  comes to its gate   ... its FIFO first ...
                  <---  ARRIVED, sleeps
                                            comes to its gate
                  <-----------------------  ARRIVED
    GATE          --->  both go on, with a communicator among them

If a member fails before that, the others get a GATE that says so; if one fails after it, the control
connection tells the others to break what they wait for, then interrupts them, and at last gives them up.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy

from mpiframe import doorbell, group
from mpiframe.codec import blame, pack
from mpiframe.commands import Encoded
from mpiframe.errors import (
    CommandArgumentError,
    CommandCancelled,
    CommandSyntaxError,
    CommandTimeout,
    SerializationError,
    ServerLost,
    WorldError,
)
from mpiframe.messages import Down, Mode, Request
from mpiframe.targets import Target, each, resolve
from mpiframe.world import CLIENT

if TYPE_CHECKING:
    from mpiframe.answers import CommandFuture
    from mpiframe.client import Client

_CHUNKS = 8
"""Commands that a server's part of a reduction is sent in, so that it can begin before all is there."""
_reductions = itertools.count(1)
_MISSING: Any = object()


class Together:
    """The requests of one collective; the holder of each."""

    def __init__(self, client: Client, label: str, members: Sequence[tuple[int, Any]]) -> None:
        self._client = client
        self._loop = client._loop
        self.requests = [client._request(label, encoded, rank) for rank, encoded in members]
        self._ranks = [rank for rank, _ in members]
        self._arrived: set[int] = set()
        self._open = False
        self._pieces: tuple[list[int], list[int]] | None = None  # members from the start, and newcomers
        self.cause: Request | None = None
        self._why: str | None = None  # it is broken, and why
        self._given_up: set[int] = set()  # the ids of members that did not end
        self._ended: set[int] = set()  # the ids of members of whose end we were told

    def run(self, timeout: float | None) -> list[Any]:
        """Their values, in the order of the members. Raises the error of the first one that failed."""
        loop = self._loop
        for request in self.requests:
            request.future = self
            loop.gates[request.id] = self
        # All under one lock, so that two collectives are in the same order everywhere.
        loop.push(self.requests, wait=True)
        try:
            ended = loop.wait(self._all_told, timeout)
        except BaseException:
            self._break("the client was interrupted")
            self._end_all()
            raise
        if not ended:
            self._break(f"it did not end within its time-out of {timeout} s")
        if self._why is not None:
            self._end_all()
        if not ended:
            raise CommandTimeout(f"the collective on servers {self._ranks} did not end within {timeout} s")
        if self.cause is not None:
            # That a member has died is what the others' errors come from, whichever was heard of first.
            dead = [r.error for r in self.requests if isinstance(r.error, ServerLost)]
            for error in dead:
                error.seen = True
            dead = [r.error for r in self.requests if r.error in dead and r.id not in self._given_up]
            assert self.cause.error is not None
            raise dead[0] if dead else self.cause.error
        return [request.value for request in self.requests]

    def _all_told(self) -> bool:
        return self._why is not None or len(self._ended) == len(self.requests)

    def arrived(self, id: int, rank: int) -> None:
        """A member has come to its gate; with the loop's lock."""
        self._arrived.add(id)
        if self._why is not None:
            self._let_in(rank, id)
        elif len(self._arrived) == len(self.requests):
            self._open = True
            natives = self._loop.natives(self._ranks)
            if len(natives) < len(self._ranks) > 1:
                # One opens ports for the others, who share no communicator with it.
                first = natives or self._ranks[:1]
                self._pieces = first, [rank for rank in self._ranks if rank not in first]
                self._let_in(first[0], self.requests[self._ranks.index(first[0])].id)
            else:
                self._let_all_in()

    def ports(self, ports: list[str]) -> None:
        """The first member has opened these for those who were not there from the start; with the lock."""
        if self._pieces is not None:
            self._let_all_in(ports, but=self._pieces[0][0])

    def _let_all_in(self, ports: list[str] | None = None, but: int | None = None) -> None:
        for request in self.requests:
            assert request.server is not None
            if request.server != but:
                self._let_in(request.server, request.id, ports)

    def _let_in(self, rank: int, id: int, ports: list[str] | None = None) -> None:
        if rank in self._loop._transport.peers:
            number = self._loop.communicators.setdefault(tuple(self._ranks), 0)
            gate = (int(Down.GATE), id, self._why, (number, self._pieces, ports))
            self._loop._transport.send(rank, pack(gate))

    def spoil(self) -> None:
        """What is left of this one must not reach the next; with the loop's lock."""
        key = tuple(self._ranks)
        self._loop.communicators[key] = self._loop.communicators.get(key, 0) + 1

    def settle(self, request: Request) -> None:
        """A member has ended."""
        self._loop.gates.pop(request.id, None)
        if request.error is not None and self.cause is None and self._why is None:
            self.cause = request
            self._break(f"server {request.server} has failed in it (request {request.id})")
        self._ended.add(request.id)

    def _break(self, why: str) -> None:
        with self._loop.lock:
            if self._why is not None:
                return
            self._why = why
            self.spoil()
            for request in self.requests:
                if request.told or request.server is None:
                    continue
                if self._open:
                    self._loop.control(request.server, doorbell.BREAK, request.id)
                elif request.id in self._arrived:
                    self._let_in(request.server, request.id)
        for request in self.requests:
            self._loop.cancel(request)
        self._loop.kick()

    def _end_all(self) -> None:
        """See to it that every member ends: by itself, interrupted, or given up."""
        loop, config = self._loop, self._client._world.config
        if loop.wait(lambda: len(self._ended) == len(self.requests), config.grace):
            return
        for request in self.requests:
            running = request.server is not None and loop.dispatcher.running(request.server)
            if not request.told and running == request.id:
                loop.control(request.server or 0, doorbell.INTERRUPT, request.id)
        # What is queued behind other commands comes to its gate in its own time, and finds it broken.
        stuck = [r for r in self.requests if self._open or r.id in self._arrived]
        if not loop.wait(lambda: all(r.id in self._ended for r in stuck), config.stop_timeout):
            for request in stuck:
                if not request.told and request.server is not None:
                    why = f"It was given up because its part in request {request.id} could not be ended"
                    self._given_up.add(request.id)
                    self._client._recovery.give_up(request.server, why)


def members(client: Client, target: Target) -> list[int]:
    """The ranks of a target, each of them once. Raises CommandArgumentError for None."""
    if target is None:
        raise CommandArgumentError(
            'a collective needs to know its servers: target is a rank, a list, or "all"'
        )
    ranks = each(resolve(target, client._loop.dispatcher))
    if len(set(ranks)) < len(ranks):
        raise CommandArgumentError(f"target={target!r} names a server twice")
    return ranks


def _check_threads() -> None:
    from mpi4py import MPI

    if MPI.Query_thread() < MPI.THREAD_MULTIPLE:
        raise WorldError(
            "collectives need MPI's thread level MULTIPLE, because servers speak to the client meanwhile; "
            "leave mpi4py.rc.thread_level at its default, 'multiple'"
        )


# -- the verbs -----------------------------------------------------------------------------------------


def spmd(
    client: Client,
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
    _check_threads()
    encoded = client._encoder.call(group.spmd, (tuple(ranks), function, args, kwargs), {})
    label = getattr(function, "__qualname__", repr(function))
    return Together(client, label, [(rank, encoded) for rank in ranks]).run(timeout)


def broadcast(client: Client, target: Target, variables: dict[str, Any]) -> None:
    """See `Client.broadcast`."""
    ranks = members(client, target)
    _check_names("broadcast", variables)
    label = f"broadcast {', '.join(variables)}"
    # On the client's own host each server fetches it from our memory, all at once. Measured with 64 MiB and
    # two servers: 6 ms; MPI_Bcast into memory in use 6 ms, into new memory 11 ms; a shared memory file 27 ms,
    # because its pages are new each time.
    near = [rank for rank in ranks if _is_near(client, rank)]
    far = [rank for rank in ranks if rank not in near]
    if len(far) == 1:
        near, far = ranks, []
    waiting = _put(client, near, label, variables) if near else []
    if far:
        _check_threads()
        try:
            whole = client._encoder.call(group.relay, (tuple(far), variables), {})
        except SerializationError as error:
            raise blame((), variables, error) from error
        nothing = client._encoder.call(group.relay, (tuple(far), None), {})
        parts = [(rank, nothing if index else whole) for index, rank in enumerate(far)]
        Together(client, label, parts).run(None)
    _results(waiting)


def _check_names(verb: str, variables: dict[str, Any]) -> None:
    if not variables:
        raise CommandArgumentError(f"{verb} takes variables by name, as in {verb}(table=array)")


def _is_near(client: Client, rank: int) -> bool:
    found = client._world.members
    return found[rank].host_key == found[CLIENT].host_key


def scatter(client: Client, target: Target, variables: dict[str, Any]) -> None:
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


def _put(
    client: Client, ranks: int | list[int], label: str, variables: dict[str, Any]
) -> list[CommandFuture]:
    try:
        return client._call(ranks, label, group.put, variables)
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


def gather(client: Client, expression: str, target: Target) -> Any:
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


def _expression(client: Client, verb: str, source: Any) -> Encoded:
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
    client: Client,
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
    number = next(_reductions)
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
            waiting += client._call(ranks, function, group.evaluate, number, source)
        else:
            for future in _fold(client, ranks, number, op, function, items):
                waiting.append(future)
        _results(waiting)
        label = f"reduce {getattr(function, '__qualname__', function)}"
        encoded = client._encoder.call(group.finish, (number, tuple(ranks), op, name), {})
        if len(ranks) > 1:
            _check_threads()
            total = Together(client, label, [(rank, encoded) for rank in ranks]).run(None)[0]
        else:
            total = client._submit(label, encoded, ranks[0], None, 0).result()
    except BaseException:
        for future in waiting:
            future.cancel()
        alive = [rank for rank in ranks if client._loop.dispatcher.is_live(rank)]
        client._service(alive, "forget a reduction", group.forget, number)
        raise
    return total if initial is _MISSING else op(initial, total)


def _fold(
    client: Client,
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
            encoded = client._encoder.call(group.fold, (number, op, function, chunk), {})
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
