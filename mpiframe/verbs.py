"""The verbs: what is said in a session, be it the client's own or that of a process attached to its world.

`Verbs` needs of its subclass a loop (`ClientLoop`, or one that speaks to a hub), an encoder of commands and
the numbers of requests; what becomes of a request is the loop's affair.
"""

from __future__ import annotations

import concurrent.futures
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mpiframe.answers import CommandFuture, Holder, place, response
from mpiframe.commands import CommandEncoder, Encoded
from mpiframe.errors import CommandArgumentError, CommandError, CommandTimeout, RequestError
from mpiframe.mapping import Items, MapRun
from mpiframe.messages import Request, Response, Status
from mpiframe.plugins.base import Plugin
from mpiframe.progress import of_map
from mpiframe.progress import progress as await_with_progress
from mpiframe.proxy import Proxy, load_plugin
from mpiframe.targets import Target, each, resolve
from mpiframe.views import ServerTable, View
from mpiframe.wording import shorten

if TYPE_CHECKING:
    from mpiframe.recording import Recorder

_NOTHING: Any = object()  # where None is a value like any other


class Verbs(concurrent.futures.Executor):
    """See `Client`, whose verbs these are."""

    _closed: bool
    _loop: Any
    _encoder: CommandEncoder
    _ids: Iterator[int]
    _service_ids: Iterator[int]  # of calls that the user does not see
    _recorder: Recorder | None  # of calls that record in a journal, once there is one

    # -- for the subclass --------------------------------------------------------------------------

    def _refuse(self) -> None:
        """Raise WorldError: nothing can be said any more."""
        raise NotImplementedError

    def _together(self, label: str, parts: Sequence[tuple[int, Encoded]], timeout: float | None) -> list[Any]:
        """Run the commands of a collective, one on each of these servers; their values, in this order."""
        raise NotImplementedError

    def _is_near(self, rank: int) -> bool:
        """Whether a server is better served from here than from another server."""
        raise NotImplementedError

    def _new_number(self) -> int:
        """A number that no other reduction of this world has."""
        raise NotImplementedError

    def interrupt(self, target: Target = "all") -> None:
        """Raise KeyboardInterrupt in the commands that run on these servers."""
        raise NotImplementedError

    @property
    def servers(self) -> ServerTable:
        """One row a server."""
        raise NotImplementedError

    # -- commands ----------------------------------------------------------------------------------

    def push(
        self,
        command: str | Callable[..., Any],
        target: Target = None,
        block: bool = False,
        parameters: Mapping[str, Any] | None = None,
        timeout: float | None = None,
    ) -> Any:
        """Queue a command on one server, on several, or on the first that is free (target None).

        A string is evaluated if it is an expression, else executed, in the server's user namespace;
        `parameters` are variables it finds there for this once. A callable is called with `parameters`
        as keywords.

        Returns the request id (target None or an int) or a list of ids (several); with `block=True` the
        list of Responses, in target order, whether the commands succeeded or not (`Response.result()`
        raises what went wrong). `timeout`, in seconds, bounds the blocking.

        Raises CommandSyntaxError, CommandArgumentError, SerializationError, TargetError, ServerLost or
        WorldError before anything is sent; CommandTimeout.
        """
        if self._closed:
            self._refuse()
        if timeout is not None:
            check_timeout(timeout)
        ranks = resolve(target, self._loop.dispatcher)
        encoded = self._encoder.encode(command, parameters)
        if type(ranks) is list:
            requests = [self._request(command, encoded, rank) for rank in ranks]
            self._loop.push(requests, block)
            return self._collect(requests, timeout) if block else [r.id for r in requests]
        request: Request | None = None
        if not encoded.buffers:
            request = self._loop.push_to_idle(ranks, command, encoded, self._ids, block)
        if request is None:
            request = self._request(command, encoded, ranks)  # type: ignore[arg-type]
            self._loop.push_one(request, block)
        return self._collect([request], timeout) if block else request.id

    def get(self, ids: Any, block: bool = True, timeout: float | None = None) -> list[Response]:
        """Responses by request id (an int or a list of ints), in the order asked; each can be had once.

        `block=False` returns those that are finished. Raises RequestError for an id that is unknown or was
        fetched before, CommandTimeout if `timeout` seconds pass (nothing is fetched then).
        """
        if self._closed:
            self._refuse()
        check_timeout(timeout)
        requests = [self._known(id) for id in flatten(ids)]
        if len({r.id for r in requests}) < len(requests):
            raise RequestError("an id is named twice; a response can be fetched once")
        if not block:
            self._loop.look()
            requests = [r for r in requests if r.told]
        return self._collect(requests, timeout)

    def submit(  # type: ignore[override]
        self,
        fn: Callable[..., Any],
        /,
        *args: Any,
        target: Target = None,
        timeout: float | None = None,
        retries: int = 0,
        journal: Any = None,
        **kwargs: Any,
    ) -> CommandFuture:
        """Queue `fn(*args, **kwargs)` on a server and return a `concurrent.futures.Future`.

        `timeout`, in seconds from now, ends the request: a queued one is dropped, a running one is
        interrupted, and the future raises CommandTimeout. `retries` says how often it may be started again
        elsewhere if its server dies (target None only).

        `journal`, a path or a `Journal`, records the value on disk when the call ends well; the same script
        run again has it from there, in a future that is done. Calls are told apart by their function's name
        and their order, and JournalError is raised for one that has changed: see `Journal`.
        """
        if self._closed:
            self._refuse()
        rank = None if target is None else self._single(target)
        if timeout is not None:
            check_timeout(timeout)
        if isinstance(fn, str):
            if args:
                raise CommandArgumentError("a string command takes keyword arguments only, as its variables")
            encoded = self._encoder.encode(fn, kwargs or None)
        else:
            encoded = self._encoder.call(fn, args, kwargs)
        if journal is not None:
            return self._recorded().submit(
                journal,
                fn,
                (args, kwargs),
                self._loop,
                lambda make: self._submit(fn, encoded, rank, timeout, retries, make=make),
            )
        return self._submit(fn, encoded, rank, timeout, retries)

    def map(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = None,
        ordered: bool = True,
        buffersize: int | None = None,
        target: Target = None,
        journal: Any = None,
        progress: bool | str = False,
    ) -> Iterator[Any]:
        """Call `fn` on the items, on all servers (or those of `target`), and yield the results.

        As `Executor.map`, and besides: `ordered=False` yields results as they come; `chunksize` items
        travel as one command (None: as many as take a few milliseconds, which is measured); `buffersize`
        bounds the items that are under way or wait to be taken, so the iterables may be endless.
        `timeout` bounds, in seconds from the call, each wait for a result. The first item that fails raises
        CommandError, which names the item's index.

        `journal`, a path or a `Journal`, records on disk what is finished, so the same call in the next run,
        whatever ended this one, computes what is missing and yields the same. It is written (in groups of up
        to 1000 items or of 0.2 s, each synced to the disk, and at the map's end) by a thread; what a crash
        takes is at most such a group and the one being written. An item that failed is not recorded. Raises
        JournalError for an item whose input or function is not what was recorded: see `Journal`.

        `progress=True`, or a label, shows a bar while results are taken, where there is a terminal or a
        notebook: see `progress`.
        """
        if self._closed:
            self._refuse()
        for name, value in (("chunksize", chunksize), ("buffersize", buffersize)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise CommandArgumentError(f"{name} must be a whole number from 1 on, not {value!r}")
        check_timeout(timeout)
        if not iterables:
            raise CommandArgumentError("map needs at least one iterable")
        ranks = each(resolve(target, self._loop.dispatcher))
        turn = itertools.cycle(ranks)
        items = Items(iterables, lazy=buffersize is not None)
        single = items.single

        def start(chunk: Sequence[Any], first: int, make: Any = CommandFuture) -> CommandFuture:
            encoded = self._encoder.chunk(fn, chunk, single)
            return self._submit(fn, encoded, next(turn), None, 0, first, make=make)

        if chunksize is not None and buffersize is not None:
            chunksize = min(chunksize, buffersize)
        servers = len(self._loop.dispatcher.ranks()) if ranks == [None] else len(set(ranks))
        recording = None
        begin: Any = start
        if journal is not None:
            recording = self._recorded().map(journal, fn, items, start)
            items, begin = recording.items, recording.start
        watch, wait = of_map(self._loop, progress, fn, iterables, items.left()), self._loop.wait
        if watch is not None:
            begin, wait = watch.counting(begin), watch.wait
        run = MapRun(items, chunksize, buffersize, servers, ordered, timeout, begin, wait, watch is not None)
        results = run.results() if recording is None else recording.results(run)
        return results if watch is None else watch.while_yielding(results)

    def progress(
        self,
        requests: Any,
        *,
        label: str | None = None,
        ordered: bool = True,
        show: bool | None = None,
        timeout: float | None = None,
    ) -> Any:
        """Wait for requests, with a bar; `requests` are ids, futures, or lists of them.

        Returns them, in the order given, when all have ended, whether well or not: so
        `client.get(client.progress(ids))` has the responses. With `ordered=False` an iterator that yields
        each as it ends, while the others go on. Ctrl-C interrupts the commands that are waited for.

        The bar is drawn in a notebook or on the terminal (below what servers print meanwhile); elsewhere
        there is none, unless `show=True` asks for a line in standard error now and then. `show=False` waits
        without any.

        Raises RequestError for an id that is unknown or was fetched before; CommandTimeout after `timeout`
        seconds, and the requests go on then.
        """
        if self._closed:
            self._refuse()
        check_timeout(timeout)
        return await_with_progress(self, requests, label=label, ordered=ordered, show=show, timeout=timeout)

    def _recorded(self) -> Recorder:
        if self._recorder is None:
            from mpiframe.recording import Recorder  # late: SQLite is not for everybody

            self._recorder = Recorder()
        return self._recorder

    # -- collectives -------------------------------------------------------------------------------

    def spmd(
        self,
        fn: Callable[..., Any],
        /,
        *args: Any,
        target: Target = "all",
        timeout: float | None = None,
        **kwargs: Any,
    ) -> list[Any]:
        """Call `fn(comm, *args, **kwargs)` on all these servers at once; their values, in target order.

        `comm` is an mpi4py communicator among exactly them, so code that is parallel over MPI runs as one
        command. A server that is busy joins when its FIFO reaches it; the others sleep until then.

        Raises the error of the first one that failed, when all have ended: the others' waits inside `comm`
        are broken, then they are interrupted, and what even that does not end (a wait in a C library that
        uses the communicator itself) loses its server. CommandTimeout after `timeout` seconds, likewise.
        """
        check_timeout(timeout)
        values: list[Any] = self._collectives().spmd(self, fn, args, target, timeout, kwargs)
        return values

    def broadcast(self, *, target: Target = "all", **variables: Any) -> None:
        """Set variables on these servers; a large array is not copied here, and goes to other hosts once."""
        self._collectives().broadcast(self, target, variables)

    def scatter(self, *, target: Target = "all", **variables: Any) -> None:
        """Split each array (along its first axis), list or tuple into contiguous parts, one for each server.

        Each server finds its part under the name of the whole; the first ones are longer by one item where
        it does not come out even.
        """
        self._collectives().scatter(self, target, variables)

    def gather(self, expression: str, target: Target = "all") -> Any:
        """The values of a variable or an expression on these servers, in target order, put together.

        Arrays are concatenated along their first axis, lists and tuples joined; other values come as a list,
        one for each server.
        """
        return self._collectives().gather(self, expression, target)

    def reduce(
        self,
        op: Callable[[Any, Any], Any],
        fn: Callable[..., Any] | str,
        *iterables: Iterable[Any],
        target: Target = "all",
        initial: Any = _NOTHING,
    ) -> Any:
        """Combine `fn` of all items by `op`, an associative function of two, and return the whole.

        Each server combines the values of a contiguous part of the items, then the servers combine theirs
        over MPI, so no item's value travels to the client. What is combined with what depends on the number
        of items and of servers alone; `op` need not commute. numpy's ufuncs and the functions of `operator`
        add arrays in place. `fn` may be an expression that each server evaluates once, with no items.
        `initial` is combined with the whole, and is the result if there are no items.
        """
        options = {} if initial is _NOTHING else {"initial": initial}
        return self._collectives().reduce(self, op, fn, iterables, target, **options)

    def allreduce(
        self,
        op: Callable[[Any, Any], Any],
        fn: Callable[..., Any] | str,
        *iterables: Iterable[Any],
        name: str,
        target: Target = "all",
    ) -> None:
        """As `reduce`, but the whole is left on each of these servers, as a variable of this name."""
        self._collectives().reduce(self, op, fn, iterables, target, name=_checked_name(name))

    def _collectives(self) -> Any:
        # Late, because it imports numpy, which takes as long as all the rest.
        from mpiframe import collectives

        if self._closed:
            self._refuse()
        return collectives

    def on(self, target: Target) -> View:
        """The same verbs, bound to a target."""
        return View(self, target)

    def plugin(self, name: str | type[Plugin], target: Target = "all", **options: Any) -> Proxy:
        """Load a plugin on the servers of `target` and return a proxy whose calls are requests.

        Raises PluginError for an unknown name (naming those there are), for options it refuses, or if its
        start fails.
        """
        if self._closed:
            self._refuse()
        found: Proxy = load_plugin(self, name, target, options)
        return found

    # -- making requests ----------------------------------------------------------------------------------

    def _request(self, command: Any, encoded: Encoded, rank: int | None, id: int = 0) -> Request:
        id = id or next(self._ids)
        return Request(
            id,
            rank,
            encoded.pace_key,
            command,
            encoded.frame(id),
            encoded.buffers,
            bool(encoded.buffers),
            time.time(),
        )

    def _submit(
        self,
        command: Any,
        encoded: Encoded,
        rank: int | None,
        timeout: float | None,
        retries: int,
        first_item: int | None = None,
        id: int = 0,
        make: Callable[[Any, Request, int | None], CommandFuture] = CommandFuture,
    ) -> CommandFuture:
        request = self._request(command, encoded, rank, id)
        request.retries = retries
        if timeout is not None:
            request.deadline = time.monotonic() + timeout
        request.future = future = make(self._loop, request, first_item)
        self._loop.push_one(request)
        if timeout is not None:
            self._loop.kick()  # whoever sleeps must know of the new deadline
        return future

    def _queue(self, request: Request, holder: Holder) -> None:
        """Queue a request whose end is told to its holder, and which `get` does not know."""
        request.future = holder
        self._loop.push_one(request)

    def _call(
        self, ranks: int | list[int] | None, label: str, function: Callable[..., Any], *args: Any
    ) -> list[CommandFuture]:
        """Queue one call on each of these servers; errors name it by its label."""
        encoded = self._encoder.call(function, args, {})
        return [self._submit(label, encoded, rank, None, 0) for rank in each(ranks)]

    def _service(
        self, ranks: Sequence[int | None], label: str, function: Callable[..., Any], *args: Any
    ) -> list[CommandFuture]:
        """The same, but no request of the user's: it takes none of his ids."""
        encoded = self._encoder.call(function, args, {})
        return [self._submit(label, encoded, rank, None, 0, id=next(self._service_ids)) for rank in ranks]

    # -- inside --------------------------------------------------------------------------

    def _single(self, target: Target) -> int | None:
        rank = resolve(target, self._loop.dispatcher)
        if isinstance(rank, list):
            if len(rank) > 1:
                raise CommandArgumentError(
                    f"submit makes one future, so it takes one server, not {target!r}; "
                    "use push for several, or submit in a loop"
                )
            return rank[0]
        return rank

    def _known(self, id: Any) -> Request:
        if isinstance(id, bool) or not hasattr(id, "__index__"):
            raise RequestError(f"a request id is an int, not {id!r} (a {type(id).__name__})")
        request: Request | None = self._loop.requests.get(id)
        if request is None:
            last = self._loop.last_id
            if 0 < id <= last:
                raise RequestError(
                    f"the response of request {id} was fetched before (or belongs to a future)"
                )
            raise RequestError(f"there is no request {id}; the last one was {last}")
        return request

    def _collect(self, requests: list[Request], timeout: float | None) -> list[Response]:
        """Wait for requests and take them out of the books."""
        last = requests[-1] if len(requests) == 1 else None
        try:
            if last is not None:
                ended = self._loop.wait(lambda: last.told, timeout)
            else:
                ended = self._loop.wait(_AllTold(requests), timeout)
        except KeyboardInterrupt:
            self._loop.was_interrupted(requests)
            raise
        if not ended:
            late = [r for r in requests if not r.told]
            raise CommandTimeout(
                f"{len(late)} of {len(requests)} requests have not ended within {timeout} s: "
                f"{', '.join(_where(r, self._loop) for r in late[:5])}. They go on; fetch them later by id"
            )
        responses = []
        self._loop.fetched(requests)
        for request in requests:
            responses.append(response(request, self._loop.host_of(request.server)))
        return responses


def _checked_name(name: Any) -> str:
    if not isinstance(name, str) or not name.isidentifier():
        raise CommandArgumentError(f"name={name!r} is no name of a variable")
    return name


def check_timeout(timeout: Any) -> None:
    if timeout is not None and not (isinstance(timeout, (int, float)) and timeout >= 0):
        raise CommandArgumentError(f"timeout must be a number of seconds from 0 on, not {timeout!r}")


def raise_unseen(requests: Iterable[Request]) -> None:
    """Raise what went wrong in those whose responses nobody has fetched: it must not look like success."""
    unseen = [r for r in requests if r.error is not None and r.status is not Status.CANCELLED]
    if not unseen:
        return
    first = unseen[0]
    error = first.error
    assert error is not None
    if len(unseen) > 1:
        others = ", ".join(str(r.id) for r in unseen[1:9]) + (", ..." if len(unseen) > 9 else "")
        raise CommandError(
            f"{len(unseen)} commands failed and nobody fetched their responses (also requests {others}). "
            f"The first: {error}"
        ) from error
    raise error


def flatten(ids: Any) -> Iterator[Any]:
    """The ids of a list, of lists in a list, or the one id that it is."""
    if isinstance(ids, (Sequence, set, frozenset)) and not isinstance(ids, (str, bytes)):
        for id in ids:
            yield from flatten(id)
    else:
        yield ids


class _AllTold:
    """Whether all of these have ended; each is looked at once, however often it is asked."""

    def __init__(self, requests: list[Request]) -> None:
        self._waiting = requests[::-1]

    def __call__(self) -> bool:
        while self._waiting and self._waiting[-1].told:
            self._waiting.pop()
        return not self._waiting


def _where(request: Request, loop: Any) -> str:
    if request.server is None:
        return f"request {request.id} ({shorten(request.command)}), still queued"
    return place(request, loop.host_of(request.server))
