"""What is known of how long commands take."""

from __future__ import annotations

from collections import OrderedDict


class Pace:
    """How long commands take, by key: a maximum that decays, so one slow run is remembered a while."""

    def __init__(self, size: int = 4096) -> None:
        self._seconds: OrderedDict[int, float] = OrderedDict()
        self._size = size

    def learn(self, key: int, seconds: float) -> None:
        """Take note that a command with this key took `seconds`."""
        known = self._seconds
        old = known.get(key)
        if old is None:
            known[key] = seconds
            if len(known) > self._size:
                known.popitem(last=False)
        else:
            known[key] = seconds if seconds >= old else 0.9 * old + 0.1 * seconds

    def expected(self, key: int) -> float | None:
        """Seconds, or None while nothing is known."""
        return self._seconds.get(key)
