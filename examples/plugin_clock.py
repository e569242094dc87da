"""A plugin in thirty lines: mpiframe run -n 3 examples/plugin_clock.py

Each server gets a clock. `now` answers at once; `alarm` is answered later, and the server goes on working
meanwhile; each tick is an event at the client.
"""

import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass

import mpiframe


@dataclass(frozen=True)
class ClockOptions:
    interval: float = 0.1  # seconds between ticks

    def __post_init__(self) -> None:
        if self.interval <= 0:
            raise ValueError(f"interval must be positive, not {self.interval}")


class Clock(mpiframe.Plugin):
    name = "clock"
    Options = ClockOptions

    def start(self, context: mpiframe.Context) -> None:
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self.tick, args=(context,))
        self.thread.start()

    def tick(self, context: mpiframe.Context) -> None:
        while not self.stopped.wait(context.config.interval):
            context.emit(time.time())

    @mpiframe.command
    def now(self) -> float:
        """Seconds since the epoch, by this server's clock."""
        return time.time()

    @mpiframe.command
    def alarm(self, seconds: float) -> "Future[str]":
        """Answered after `seconds`."""
        future: Future[str] = Future()
        threading.Timer(seconds, future.set_result, ["ring"]).start()
        return future

    def stop(self) -> None:
        self.stopped.set()
        self.thread.join()


if __name__ == "__main__":
    with mpiframe.Client() as client:
        clock = client.plugin(Clock, target="all", interval=0.05)
        alarms = clock.alarm.submit(0.3)
        ticks = threading.Semaphore(0)
        clock.subscribe(lambda *_: ticks.release())
        print("the servers' clocks differ from ours by", [f"{t - time.time():+.6f} s" for t in clock.now()])
        for _ in range(4):
            ticks.acquire(timeout=10)
        print("four ticks came; the alarms say", [alarm.result() for alarm in alarms])
