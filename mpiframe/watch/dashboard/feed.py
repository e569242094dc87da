"""One poll of the world for all who look: keeps the last minutes, and wakes the viewers."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import AsyncGenerator
from typing import Any

from mpiframe.watch.source import GONE, Source

LOOK_SECONDS = 0.5
"""From one snapshot to the next while somebody looks."""
IDLE_SECONDS = 5.0
"""The same while nobody does: then it is only to know whether the world is still there."""
_SPANS = 20_000
_PIECES = 4_000


class Feed:
    """What there is to be seen. Used in one event loop; `source` is called in a thread.

    gone: why the world cannot be seen any more, None while it can.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self.last: dict[str, Any] = {}
        self.gone: str | None = None
        self.viewers = 0
        self._spans: deque[dict[str, Any]] = deque(maxlen=_SPANS)
        self._output: deque[dict[str, Any]] = deque(maxlen=_PIECES)
        self._changed = asyncio.Condition()
        self._hurry = asyncio.Event()  # somebody has begun to look
        self._polling = asyncio.Lock()

    async def run(self) -> None:
        """Poll until the world is gone."""
        await self.poll()
        while self.gone is None:
            self._hurry.clear()
            pause = LOOK_SECONDS if self.viewers else IDLE_SECONDS
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), pause)
            await self.poll()

    async def nobody(self) -> None:
        """Until nobody looks."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self.viewers)

    async def poll(self) -> None:
        """Take a snapshot, or learn that there will be no more."""
        async with self._polling:
            since = self.last.get("seq", 0)
            try:
                news = await _in_thread(self._source, since)
            except GONE as error:
                self.gone = str(error) or type(error).__name__
            else:
                self._spans.extend(news["spans"])
                self._output.extend(news["output"])
                self.last = news
            async with self._changed:
                self._changed.notify_all()

    async def follow(self, since: int) -> AsyncGenerator[dict[str, Any], None]:
        """Snapshots for one viewer, each with what happened since the one before; ends with the world."""
        self.viewers += 1
        self._hurry.set()
        told: dict[str, Any] | None = None
        try:
            while True:
                async with self._changed:
                    while (not self.last or self.last is told) and self.gone is None:
                        await self._changed.wait()
                if self.last and self.last is not told:
                    told = self.last
                    yield {
                        **told,
                        "spans": [one for one in self._spans if one["seq"] > since],
                        "output": [one for one in self._output if one["seq"] > since],
                    }
                    since = told["seq"]
                elif self.gone is not None:
                    return
        finally:
            self.viewers -= 1
            async with self._changed:
                self._changed.notify_all()


async def _in_thread(source: Source, since: int) -> dict[str, Any]:
    """What it returns. Its thread does not keep the process from ending, however long it takes."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[dict[str, Any]] = loop.create_future()

    def settle(news: dict[str, Any] | None, error: BaseException | None) -> None:
        if future.cancelled():
            return
        if news is None:
            future.set_exception(error or RuntimeError("there was no snapshot"))
        else:
            future.set_result(news)

    def work() -> None:
        news, problem = None, None
        try:
            news = source(since)
        except BaseException as error:
            problem = error
        with contextlib.suppress(RuntimeError):  # the loop has closed meanwhile
            loop.call_soon_threadsafe(settle, news, problem)

    threading.Thread(target=work, name="mpiframe-snapshot", daemon=True).start()
    return await future
