"""What an attached process can ask its hub for, by the "op" of its frames.

Each function gets the Call, and the other fields of the frame's header by name. It returns what the reply
holds, or None where that comes later.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mpiframe import doorbell
from mpiframe.commands import Encoded
from mpiframe.errors import CommandCancelled, MpiframeError
from mpiframe.hub.session import Attached, Record, Refused, Session
from mpiframe.messages import Mode, PluginCall, Request, world_wide
from mpiframe.together import Together, check_threads
from mpiframe.wording import shorten

if TYPE_CHECKING:
    from mpiframe.hub.server import Hub

log = logging.getLogger("mpiframe")

_CALLS = 32  # calls of one connection that threads may be busy with
_STRINGS = (Mode.EVAL, Mode.EXEC)
_MODES = frozenset(int(mode) for mode in Mode)
_LONGEST = 200  # characters of a command that are kept to name it by


@dataclass(slots=True)
class Call:
    """One frame of an attached process, but for the fields of its header."""

    hub: Hub
    attached: Attached
    session: Session
    number: int | None  # None: no reply is waited for
    buffers: Sequence[Any]


# -- commands ---------------------------------------------------------------------------------------------


def _read_command(call: Call, command: dict[str, Any], buffers: Sequence[Any]) -> tuple[Encoded, str]:
    """A command as it came: (ready to be sent on, its label)."""
    mode, key, label = command["mode"], command["key"], command["label"]
    if mode not in _MODES or type(key) is not int or not 0 <= key < 1 << 31:
        raise Refused(f"a command of mode {mode!r} and function {key!r} is none")
    left = list(buffers)
    body: Any = command["source"] if mode in _STRINGS else left.pop(0) if command["body"] else None
    payload = left.pop(0) if command["pickled"] else None
    if mode in _STRINGS and not isinstance(body, str):
        raise Refused(f"{body!r} is no source of a command")
    label = str(label) if label is not None else body
    pace = hash(body) if mode in _STRINGS else hash(label)
    if key:
        key, body = call.hub.sessions.keep_function(call.attached, key, body)
        pace = -key
    return Encoded(mode, body, key, bool(command["pickled"]), payload, left, pace), label


def _make_request(
    call: Call, id: int, rank: int | None, encoded: Encoded, label: str, plugin: bool = False
) -> Request:
    """The Request of a command, with its record as the one who is told of its end."""
    if rank is not None and type(rank) is not int:
        raise Refused(f"{rank!r} is no server")
    session = call.session
    record = session.begin(id, shorten(label, _LONGEST), call.attached)
    number = world_wide(session.number, id)
    request = Request(
        number,
        rank,
        encoded.pace_key,
        PluginCall(label) if plugin else label,
        encoded.frame(number),
        encoded.buffers,
        bool(encoded.buffers),
        time.time(),
    )
    request.owner, request.future, record.request = session, record, request
    return request


def _push(
    call: Call,
    *,
    ids: list[int],
    to: list[int | None],
    command: dict[str, Any],
    timeout: float | None = None,
    retries: int = 0,
    plugin: bool = False,
) -> dict[str, Any]:
    encoded, label = _read_command(call, command, call.buffers)
    requests = []
    for id, rank in zip(ids, to, strict=True):
        request = _make_request(call, id, rank, encoded, label, plugin)
        request.retries = int(retries)
        if timeout is not None:
            request.deadline = time.monotonic() + float(timeout)
        requests.append(request)
    call.hub.sessions.push(requests)
    return {}


def _forget(call: Call) -> dict[str, Any]:
    """The process has forgotten its functions, and will send each again."""
    call.attached.bodies.clear()
    return {}


# -- requests ---------------------------------------------------------------------------------------------


def _cancel(call: Call, *, id: int, running: bool) -> dict[str, Any]:
    record, loop = call.session.records.get(id), call.hub.client._loop
    if record is None:
        raise Refused(f"session {call.session.name!r} has no request {id}")
    request = record.request
    if request is None or request.ended:
        return {"value": False}
    if not running:
        return {"value": loop.cancel(request)}
    if request.server is not None and not loop.lines.reach(request.server):
        raise call.hub.client._unreachable(request.server)
    return {"value": loop.call_off(request)}


def _request_of(call: Call, id: int) -> Request | None:
    """What the world calls a request of this session; None once it has ended, or if there is none."""
    record = call.session.records.get(id)
    return record.request if record is not None else None


def _status(call: Call, *, id: int) -> dict[str, Any]:
    """As `ClientLoop.status_of`."""
    request = _request_of(call, id)
    if request is None:
        raise Refused(f"request {id} has ended")
    return {"value": str(call.hub.client._loop.status_of(request))}


def _interrupt_requests(call: Call, *, ids: list[int]) -> dict[str, Any]:
    """As `ClientLoop.was_interrupted`: what runs is interrupted, what waits is called off."""
    loop = call.hub.client._loop
    for id in ids:
        request = _request_of(call, id)
        if request is None:
            continue
        if request.server is not None and loop.dispatcher.running(request.server) == request.id:
            loop.lines.send(request.server, doorbell.INTERRUPT, request.id)
        else:
            loop.call_off(request)
    return {}


def _interrupt(call: Call, *, ranks: list[int], named: bool) -> dict[str, Any]:
    """Interrupt what this session runs on servers; what others run is left alone, and told of if named."""
    loop = call.hub.client._loop
    for rank in ranks:
        running = loop.dispatcher.running(rank)
        request = loop.requests.get(running) if running is not None else None
        if running is None or request is None:
            continue
        if request.owner is not call.session:
            if named:
                owner = request.owner
                whose = "the script of this world" if owner is None else f"session {owner.name!r}"
                raise Refused(
                    f"server {rank} runs a command of {whose}, which is not for others to interrupt"
                )
        elif not loop.lines.send(rank, doorbell.INTERRUPT, running):
            raise call.hub.client._unreachable(rank)
    return {}


def _adopt(call: Call, *, ids: list[int]) -> dict[str, Any]:
    return call.session.adopt(ids, call.attached)


def _done(call: Call, *, ids: list[int]) -> dict[str, Any]:
    call.session.fetched(ids)
    return {}


def _requests(call: Call) -> dict[str, Any]:
    rows = []
    for record in list(call.session.records.values()):
        request, answer = record.request, record.answer
        if record.id < 0:
            continue
        if answer is not None:
            status = "dropped" if "dropped" in answer else answer["status"]
            rows.append([record.id, status, answer["server"], record.label])
        elif request is not None:
            status = str(call.hub.client._loop.dispatcher.state(request))
            rows.append([record.id, status, request.server, record.label])
    return {"rows": rows}


# -- plugins ----------------------------------------------------------------------------------------------


def _recovered(call: Call, *, rank: int) -> dict[str, Any]:
    call.hub.client._loop.recovered(rank)
    return {}


def _subscribe(call: Call, *, source: str, on: bool) -> dict[str, Any]:
    if on:
        call.attached.sources.add(str(source))
    else:
        call.attached.sources.discard(str(source))
    return {}


# -- what may take a while: each in a thread of its own ---------------------------------------------------


def _slowly(function: Callable[..., dict[str, Any]]) -> Callable[..., None]:
    def begin(call: Call, **words: Any) -> None:
        attached = call.attached
        if attached.calls >= _CALLS:
            raise Refused(f"{_CALLS} calls of this process are under way already")
        attached.calls += 1

        def run() -> None:
            try:
                reply = function(call, **words)
            except MpiframeError as error:
                call.hub.answer_error(attached, call.number, error)
            except Exception as error:
                log.exception("a call of an attached process failed")
                call.hub.answer_error(attached, call.number, Refused(f"the hub cannot do that: {error!r}"))
            else:
                content = reply.pop("buffers", ())
                attached.stream.send({"op": "reply", "n": call.number, **reply}, content)
            finally:
                attached.calls -= 1

        threading.Thread(target=run, name="mpiframe-hub-call", daemon=True).start()

    return begin


def _servers(call: Call) -> dict[str, Any]:
    rows = []
    requests = call.hub.client._loop.requests
    for row in call.hub.client.servers:
        fields = list(dataclasses.astuple(row))
        found = requests.get(row.running) if row.running is not None else None
        if found is not None:
            own = found.owner is call.session and isinstance(found.future, Record)
            fields[5] = found.future.id if own else 0
        rows.append(fields)
    return {"rows": rows}


def _snapshot(call: Call, *, since: int = 0) -> dict[str, Any]:
    if call.hub.snapshot is None:
        raise Refused("nobody watches this world, so there is nothing to show")
    return {"value": call.hub.snapshot(since)}


def _setup(call: Call, *, command: dict[str, Any]) -> dict[str, Any]:
    encoded, label = _read_command(call, command, call.buffers)
    call.hub.client._recovery.setup(label, encoded)
    return {}


def _path(call: Call, *, entries: list[str]) -> dict[str, Any]:
    """Folders of modules that its process has told the servers of: those that come later get them, too."""
    call.hub.client._recovery.add_to_path(map(str, entries))
    return {}


def _restart(call: Call, *, ranks: list[int]) -> dict[str, Any]:
    call.hub.client._recovery.restart(ranks)
    return {}


def _together(
    call: Call,
    *,
    ids: list[int],
    ranks: list[int],
    which: list[int],
    commands: list[dict[str, Any]],
    label: str,
    seconds: float | None,
) -> dict[str, Any]:
    """A collective: `which` says which of the commands each of these servers gets."""
    check_threads()
    left = list(call.buffers)
    encoded = []
    for command in commands:
        count = command["buffers"]
        encoded.append(_read_command(call, command, left[:count])[0])
        del left[:count]
    requests = [
        _make_request(call, id, rank, encoded[index], label)
        for id, rank, index in zip(ids, ranks, which, strict=True)
    ]
    together = Together(call.hub.client, requests)
    call.session.collectives[ids[0]] = together
    try:
        together.run(seconds)
    except MpiframeError as error:
        cause = together.cause
        if cause is None or error is not cause.error or type(cause.value) is not tuple:
            raise
        content, beside = cause.value
        return {
            "failed": requests.index(cause),
            "times": [cause.started_at, cause.finished_at],
            "buffers": [content, *beside],
        }
    finally:
        del call.session.collectives[ids[0]]
        call.session.settled_together(ids)
    if together.broken is not None:
        raise CommandCancelled(f"{label}: {together.broken}")
    values = [request.value for request in requests]
    return {
        "counts": [1 + len(beside) for _, beside in values],
        "buffers": [buffer for content, beside in values for buffer in (content, *beside)],
    }


def _break(call: Call, *, id: int) -> dict[str, Any]:
    """End a collective of this session: its process was interrupted."""
    together = call.session.collectives.get(id)
    if together is not None:
        together.give_up("the client was interrupted")
    return {}


def world(hub: Hub) -> dict[str, Any]:
    """What the world stands on, as `WorldFacts`."""
    facts = dataclasses.asdict(hub.client.facts())
    facts["doorbell"] = list(facts["doorbell"].items())
    return facts


CALLS: dict[str, Callable[..., dict[str, Any] | None]] = {
    "push": _push,
    "forget": _forget,
    "cancel": _cancel,
    "interrupt": _interrupt,
    "interrupt requests": _interrupt_requests,
    "adopt": _adopt,
    "done": _done,
    "requests": _requests,
    "status": _status,
    "recovered": _recovered,
    "subscribe": _subscribe,
    "break": _break,
    "path": _path,
    "servers": _slowly(_servers),
    "snapshot": _slowly(_snapshot),
    "setup": _slowly(_setup),
    "restart": _slowly(_restart),
    "together": _slowly(_together),
}
