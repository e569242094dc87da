"""What a trace file holds, and the process that writes it, so that the client hardly notices.

The client hands over records as they come; this makes events of them in the Trace Event format of Chrome
and Perfetto (ui.perfetto.dev opens it). For a command there are, on its server's row, the phases

    queue    from its push until its message leaves the client, or until the server is free to take it
    send     until the server has all of it (with its large arguments)
    queue    again, until those that came in the same message before it have been run
    run      on the server
    answer   until the client has its result (with what is large in that)

all by the client's clock. A file is an array in its JSON form, an event a line. It lacks its last bracket
if the writer was killed, which its readers forgive; if only the client was, the writer still ends it.

This module is run as a program by its path, so it imports nothing of the package.
"""

from __future__ import annotations

import contextlib
import gc
import gzip
import json
import marshal
import os
import select
import signal
import struct
import sys
from collections.abc import Callable, Iterator
from typing import IO, Any

BEGIN, END, LATE, SAMPLE, CLOSE = range(5)
"""Kinds of record; see `Writer` for what each holds after its kind."""
LENGTH = struct.Struct("!I")
"""What stands before each batch of records: how long it is, in `marshal`'s form."""
CLIENT_PID = 1_000_000
"""The client's process in the file; a server's is its rank. Some viewers take 0 for the idle process."""
ROWS = 100
"""A server's rows of commands, at most; more than one where a command goes on in the background."""

_WITHIN_SESSION = (1 << 32) - 1  # of a request's number in the world, that in its session
_ARROW = 1e-3  # seconds that a command runs at least to get an arrow from its push
_HELD = 256  # commands of a server with another clock that are held until this is known
_HELD_SECONDS = 1.0
_WINDOW = 10.0  # seconds after which what is known of a clock begins to be forgotten: clocks drift
_UNKNOWN = float("inf")


class ServerClock:
    """How far a server's clock is ahead of the client's, from when messages left and came, as in NTP.

    A command never starts before it was sent, and its answer never comes before it has finished. So the
    offset lies between the largest `finished - received` and the smallest `started - sent`.
    """

    def __init__(self, same: bool) -> None:
        self._same = same  # it is the client's clock, unless messages prove otherwise
        self._low = self._old_low = -_UNKNOWN
        self._high = self._old_high = _UNKNOWN
        self._since = 0.0

    def learn(self, sent: float, started: float, finished: float, received: float) -> None:
        """One command: seconds, the outer two by the client's clock, the inner ones by the server's."""
        if received - self._since > _WINDOW:
            self._old_low, self._old_high, self._since = self._low, self._high, received
            self._low, self._high = -_UNKNOWN, _UNKNOWN
        low, high = finished - received, started - sent
        self._low, self._high = max(self._low, low), min(self._high, high)
        if self._low > self._high:  # one of the clocks was set
            self._low, self._high = low, high
            self._old_low, self._old_high = -_UNKNOWN, _UNKNOWN

    def _bounds(self) -> tuple[float, float]:
        low, high = max(self._low, self._old_low), min(self._high, self._old_high)
        if low > high:  # one has drifted
            low, high = self._low, self._high
        return low, high

    @property
    def offset(self) -> float:
        """Seconds to take from the server's times."""
        low, high = self._bounds()
        if low > high or high == _UNKNOWN or (self._same and low <= 0.0 <= high):
            return 0.0
        return (low + high) / 2

    @property
    def error(self) -> float:
        """Seconds by which `offset` may be wrong, either way."""
        low, high = self._bounds()
        if high == _UNKNOWN:
            return _UNKNOWN
        return 0.0 if self._same and low <= 0.0 <= high else max(high - low, 0.0) / 2


class _Server:
    def __init__(self, rank: int, host: str, same: bool) -> None:
        self.rank, self.host, self.same = rank, host, same
        self.clock = ServerClock(same)
        self.held: list[tuple[bool, tuple[Any, ...]]] | None = None if same else []
        self.sent = -_UNKNOWN  # the last message: when it was sent, from when on the server could take it,
        self.free = self.taken = 0.0  # and when it did
        self.finished = -_UNKNOWN  # the last command
        self.rows: list[int] = []  # when each is free, in the file's time
        self.waiting = -1  # the last count that was written
        self.place = f'"pid":{rank},"tid":{rank * ROWS},"ts":'


def _digits(tenths: int) -> str:
    """Microseconds, for JSON."""
    return f"{tenths // 10}.{tenths % 10}"


class Writer:
    """Makes events of records; `write` takes the text.

    BEGIN   start (epoch seconds), the world's facts (JSON-able; "servers": {rank: [host, pid, same clock]})
    END     id, status, server or None, name, queued, sent, started, finished, ended, bytes out, bytes back,
            whether any server might run it, the session it was pushed in or None
    LATE    the same of a command whose request had ended before: its server was busy all the same
    SAMPLE  time, commands that wait in the shared queue, {rank: commands that wait for it}, CPU seconds
            that the client has used
    CLOSE   time, records that were left out because they could not be written as fast as they came
    """

    def __init__(self, write: Callable[[str], Any]) -> None:
        self._write = write
        self._start = 0.0
        self._servers: dict[int, _Server] = {}
        self._texts: dict[str, str] = {}
        self._shared = -1
        self._cpu: tuple[float, float] | None = None
        self._first = True
        self._facts: dict[str, Any] = {}
        self._does: dict[int, Callable[..., None]] = {
            BEGIN: self._begin,
            END: self._end,
            LATE: self._late,
            SAMPLE: self._sample,
            CLOSE: self._close,
        }

    def take(self, records: list[tuple[Any, ...]]) -> None:
        """Write the events of these."""
        for record in records:
            self._does[record[0]](*record[1:])

    def finish(self) -> None:
        """No more will come."""
        for server in self._servers.values():
            self._let_go(server)
            if server.rows:
                self._label(server)
        self._write("\n]\n" if not self._first else "[]\n")

    # -- records -------------------------------------------------------------------------------------

    def _begin(self, start: float, facts: dict[str, Any]) -> None:
        self._start, self._facts = start, facts
        self._tell_facts()
        self._name(CLIENT_PID, f"client @{facts.get('host', '?')}", -1)
        self._name_row(CLIENT_PID, CLIENT_PID, "push")
        for rank, (host, _, same) in sorted(facts.get("servers", {}).items()):
            self._server(rank, host, same)

    def _end(self, *record: Any, late: bool = False) -> None:
        id, status, rank, name, queued, sent, started, finished, ended, *_ = record
        if rank is None or sent is None or started is None or finished is None:
            self._never_run(id, status, rank, name, queued, sent, ended)
            return
        server = self._server(rank)
        server.clock.learn(sent, started, finished, ended)
        if server.held is None:
            self._ran(server, late, record)
            return
        server.held.append((late, record))
        if len(server.held) >= _HELD or ended - server.held[0][1][8] > _HELD_SECONDS:
            self._let_go(server)

    def _late(self, *record: Any) -> None:
        self._end(*record, late=True)

    def _let_go(self, server: _Server) -> None:
        held, server.held = server.held, None
        if held:
            self._label(server)
        for late, record in held or ():
            self._ran(server, late, record)

    def _ran(self, server: _Server, late: bool, record: tuple[Any, ...]) -> None:
        """The phases of a command that was run; of one that is late the others were told before."""
        id, status, _, name, queued, sent, started, finished, ended, out, back, anywhere, session = record
        offset = server.clock.offset
        sent = max(sent, queued)
        started = max(started - offset, sent)
        finished = max(finished - offset, started)
        ended = max(ended, finished)
        if sent == server.sent:  # in the same message as the one before
            server.taken = min(server.taken, started)
        else:
            server.sent, server.taken = sent, started
            server.free = server.finished if sent < server.finished <= started else sent
        free, taken = min(server.free, server.taken), server.taken
        server.finished = max(server.finished, finished)
        start, end = self._time(started), self._time(finished)
        row = self._row(server, start, end)
        start = max(start, server.rows[row])
        end = max(end, start)
        server.rows[row] = end
        tid = server.rank * ROWS + row
        taken_ = min(self._time(taken), start)
        free_ = min(self._time(free), taken_)
        # Of an event the texts of its times are most of the work, so each is made once.
        q, s, f = _digits(self._time(queued)), _digits(self._time(sent)), _digits(free_)
        t, a, z = _digits(taken_), _digits(start), _digits(end)
        e = _digits(max(self._time(ended), end))
        text = self._texts.get(name) or self._text(name)
        whose, shown = "", id
        if session:
            whose, shown = f',"session":{self._text(session)}', id & _WITHIN_SESSION
        run = (
            f'{{"ph":"X","cat":"run","name":{text},"pid":{server.rank},"tid":{tid},"ts":{a},'
            f'"dur":{_digits(end - start)},"args":{{"id":{shown},"status":"{status}","queued":{q},"sent":{s},'
            f'"free":{f},"taken":{t},"ended":{e},"out":{out},"back":{back},'
            f'"any":{int(anywhere)}{whose}}}}}'
        )
        if late:
            self._put(run)
            return
        place = f'"id":"{id}",{server.place}'
        queue = f'"cat":"queue","name":"queue",{place}'
        what = f',"args":{{"command":{text}'
        turn = f',\n{{"ph":"b",{queue}{t}{what}}}}},\n{{"ph":"e",{queue}{a}}}' if taken_ < start else ""
        self._put(
            f'{run},\n{{"ph":"b",{queue}{q}{what}}}}},\n{{"ph":"e",{queue}{f}}},\n'
            f'{{"ph":"b","cat":"send","name":"send",{place}{f}{what},"bytes":{out}}}}},\n'
            f'{{"ph":"e","cat":"send","name":"send",{place}{t}}}{turn},\n'
            f'{{"ph":"b","cat":"answer","name":"answer",{place}{z}{what},"bytes":{back}}}}},\n'
            f'{{"ph":"e","cat":"answer","name":"answer",{place}{e}}}'
        )
        if finished - started >= _ARROW:
            arrow = f'"cat":"push","name":"push","id":"{id}"'
            client = f'"pid":{CLIENT_PID},"tid":{CLIENT_PID},"ts":{q}'
            self._put(
                f'{{"ph":"X","cat":"push","name":{text},{client},"dur":0.1,"args":{{"id":{id}}}}}',
                f'{{"ph":"s",{arrow},{client}}}',
                f'{{"ph":"f","bp":"e",{arrow},"pid":{server.rank},"tid":{tid},"ts":{a}}}',
            )

    def _row(self, server: _Server, start: int, end: int) -> int:
        """Commands follow each other in the first row; what overlaps, in the background, gets another."""
        rows = server.rows
        error = 0 if server.same else int(2e7 * min(server.clock.error, 1.0))
        for row, free in enumerate(rows):
            # Ends that differ by less than the clocks' error touch.
            if free <= start or (free <= start + error and free <= end):
                return row
        if len(rows) == ROWS:
            return rows.index(min(rows))
        row = len(rows)
        rows.append(0)
        name = "commands" if not row else f"in the background {row}"
        self._name_row(server.rank, server.rank * ROWS + row, name)
        return row

    def _never_run(
        self,
        id: int,
        status: str,
        rank: int | None,
        name: str,
        queued: float,
        sent: float | None,
        ended: float,
    ) -> None:
        if rank is not None:
            self._server(rank)
        pid = CLIENT_PID if rank is None else rank
        tid, text = CLIENT_PID if rank is None else rank * ROWS, self._text(name)
        q = self._time(queued)
        e = max(self._time(ended), q)
        s = e if sent is None else max(self._time(sent), q)
        head = f'"cat":"queue","name":"queue","id":"{id}","pid":{pid},"tid":{tid},"ts":'
        args = f'"args":{{"id":{id},"status":"{status}","command":{text},"queued":{q / 10}}}'
        self._put(
            f'{{"ph":"b",{head}{q / 10},"args":{{"command":{text}}}}}',
            f'{{"ph":"e",{head}{s / 10}}}',
            f'{{"ph":"i","s":"p","cat":"end","name":"{status}","pid":{pid},"tid":{tid},'
            f'"ts":{e / 10},{args}}}',
        )

    def _sample(self, now: float, shared: int, waiting: dict[int, int], cpu: float) -> None:
        ts = self._time(now) / 10
        if shared != self._shared:
            self._shared = shared
            self._count(CLIENT_PID, "shared queue", ts, f'"waiting":{shared}')
        for rank, count in waiting.items():
            server = self._server(rank)
            if count != server.waiting:
                server.waiting = count
                self._count(rank, "queue", ts, f'"waiting":{count}')
        if self._cpu is None:
            self._cpu = now, cpu
        elif now - self._cpu[0] >= 0.05:
            before, used = self._cpu
            self._cpu = now, cpu
            self._count(
                CLIENT_PID, "cpu", self._time(before) / 10, f'"cores":{(cpu - used) / (now - before):.3f}'
            )

    def _close(self, now: float, missing: int) -> None:
        self._facts["end"] = now
        self._facts["missing"] = missing
        self._tell_facts()

    # -- events --------------------------------------------------------------------------------------

    def _server(self, rank: int, host: str = "?", same: bool = True) -> _Server:
        server = self._servers.get(rank)
        if server is None:
            server = self._servers[rank] = _Server(rank, host, same)
            self._name(rank, f"server {rank}@{host}", rank)
        return server

    def _time(self, seconds: float) -> int:
        """Tenths of microseconds since the start: the clocks do not tell less."""
        since = seconds - self._start
        return int(since * 1e7 + 0.5) if since > 0.0 else 0

    def _text(self, name: str) -> str:
        text = self._texts.get(name)
        if text is None:
            if len(self._texts) >= 4096:
                self._texts.clear()
            text = self._texts[name] = json.dumps(name)
        return text

    def _put(self, *lines: str) -> None:
        self._write(("[\n" if self._first else ",\n") + ",\n".join(lines))
        self._first = False

    def _meta(self, pid: int, tid: int, name: str, args: dict[str, Any]) -> None:
        event = {"ph": "M", "name": name, "pid": pid, "tid": tid, "ts": 0, "args": args}
        self._put(json.dumps(event, separators=(",", ":")))

    def _name(self, pid: int, name: str, place: int) -> None:
        self._meta(pid, pid if pid == CLIENT_PID else pid * ROWS, "process_name", {"name": name})
        self._meta(pid, pid if pid == CLIENT_PID else pid * ROWS, "process_sort_index", {"sort_index": place})

    def _name_row(self, pid: int, tid: int, name: str) -> None:
        self._meta(pid, tid, "thread_name", {"name": name})

    def _tell_facts(self) -> None:
        self._meta(CLIENT_PID, CLIENT_PID, "mpiframe", self._facts)

    def _label(self, server: _Server) -> None:
        """Say how the server's clock was put on the client's."""
        clock = server.clock
        if clock.error == _UNKNOWN or (not clock.error and not clock.offset):
            return
        words = f"clock {clock.offset * 1e3:+.3f} ms, put right to ± {clock.error * 1e3:.3f} ms"
        self._meta(server.rank, server.rank * ROWS, "process_labels", {"labels": words})
        self._meta(
            server.rank, server.rank * ROWS, "mpiframe_clock", {"offset": clock.offset, "error": clock.error}
        )

    def _count(self, pid: int, name: str, ts: float, args: str) -> None:
        tid = pid if pid == CLIENT_PID else pid * ROWS
        self._put(f'{{"ph":"C","name":"{name}","pid":{pid},"tid":{tid},"ts":{ts},"args":{{{args}}}}}')


# -- the process ---------------------------------------------------------------------------------------


class _Pressed:
    """A text file that is compressed, and can be read up to here whenever it is flushed."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._gzip = gzip.GzipFile("", "wb", 2, file)

    def write(self, data: bytes) -> None:
        self._gzip.write(data)

    def flush(self) -> None:
        self._gzip.flush()
        self._file.flush()

    def close(self) -> None:
        self._gzip.close()
        self._file.flush()


def batches(source: IO[bytes]) -> Iterator[list[tuple[Any, ...]]]:
    """What the client hands over, until it closes its end or is gone; from a pipe that is nobody else's."""
    while len(head := source.read(LENGTH.size)) == LENGTH.size:
        (length,) = LENGTH.unpack(head)
        data = source.read(length)
        if len(data) < length:
            return  # it was killed
        yield marshal.loads(data)


def main() -> int:
    """Write what comes on standard input to standard output; `gzip` as argument compresses it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends when the client does
    with contextlib.suppress(OSError):
        os.nice(10)  # the commands come first
    source, file = sys.stdin.buffer, sys.stdout.buffer
    target: Any = _Pressed(file) if sys.argv[1:2] == ["gzip"] else file
    gc.disable()  # nothing here goes round in circles
    writer = Writer(lambda text: target.write(text.encode()))
    path = sys.argv[2] if len(sys.argv) > 2 else "?"
    try:
        for records in batches(source):
            writer.take(records)
            if not select.select([source], [], [], 0)[0]:
                target.flush()
        writer.finish()
        (target.close if target is not file else target.flush)()
    except OSError as error:
        print(f"mpiframe: the trace {path} is not whole: {error.strerror}", file=sys.stderr, flush=True)
        for _ in batches(source):  # the run goes on without it
            pass
        os._exit(1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
