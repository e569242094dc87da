"""Spectra of running jobs as commands and events of the DiFX plugin; a mixin for it.

number = difx.monitor_start("/data/exp/exp_1.input", wanted=[0, 3])
# events: ("spectrum", number, Update) for each product and integration, as the job writes them
difx.monitor_stop(number)
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence

from mpiframe.errors import MpiframeError
from mpiframe.plugins.base import Context, command
from mpiframe.plugins.difx.follow import Follower
from mpiframe.plugins.difx.formats import Input, Product
from mpiframe.plugins.difx.monitor import Monitor

_END_SECONDS = 10.0


class MonitorError(MpiframeError, LookupError):
    """There is no such monitor: it has been stopped, or the plugin was loaded anew."""


class _Running:
    """A monitor, and the thread that feeds it."""

    def __init__(self, context: Context, number: int, job: str, wanted: Sequence[int] | None) -> None:
        self._context, self._number = context, number
        self._follower = Follower(job)
        try:
            self.monitor = Monitor(self._follower.job, wanted)
            self._lock = threading.Lock()
            self._thread = threading.Thread(target=self._run, name=f"DiFX monitor {number}", daemon=True)
            self._thread.start()
        except BaseException:
            self._follower.stop()
            raise

    def request(self, wanted: Sequence[int]) -> None:
        with self._lock:
            self.monitor.request(wanted)

    def stop(self) -> None:
        self._follower.stop()
        self._thread.join(_END_SECONDS)

    def _run(self) -> None:
        try:
            for batch in self._follower:
                with self._lock:
                    updates = self.monitor.take(batch)
                for update in updates:
                    self._context.emit(("spectrum", self._number, update))
        except Exception as error:
            self._context.log.exception("monitor %d ended", self._number)
            self._context.emit(("monitor_ended", self._number, f"{type(error).__name__}: {error}"))


class MonitorCommands:
    """The plugin's `stop` has to call `monitors_close`."""

    context: Context
    _monitors: dict[int, _Running] | None = None
    _monitor_numbers: itertools.count[int] | None = None

    @command
    def products(self, job: str) -> list[Product]:
        """What each integration of a job brings; a product's place in the list is its id."""
        return Input.read(job).products()

    @command
    def monitor_start(self, job: str, wanted: Sequence[int] | None = None) -> int:
        """Emit each new spectrum of these products (None: all) as an event ("spectrum", number, Update).

        What the job has written before comes first. Raises IndexError for a product that there is not.
        """
        if self._monitors is None or self._monitor_numbers is None:
            self._monitors, self._monitor_numbers = {}, itertools.count(1)
        number = next(self._monitor_numbers)
        self._monitors[number] = _Running(self.context, number, job, wanted)
        return number

    @command
    def monitor_request(self, number: int, wanted: Sequence[int]) -> None:
        """Emit those of these products from now on."""
        self._monitor(number).request(wanted)

    @command
    def monitor_stop(self, number: int) -> None:
        """Emit no more; what was written before has been emitted when this returns."""
        self._monitor(number).stop()
        assert self._monitors is not None
        self._monitors.pop(number, None)

    def monitors_close(self) -> None:
        """End all of them."""
        for one in (self._monitors or {}).values():
            one.stop()
        self._monitors = None

    def _monitor(self, number: int) -> _Running:
        known = self._monitors or {}
        if number not in known:
            raise MonitorError(f"there is no monitor {number}; there are {sorted(known) or 'none'}")
        return known[number]
