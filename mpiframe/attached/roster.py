"""Which servers there are and where, as an attached process knows it from its hub."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Member:
    """Where a server is."""

    host: str
    pid: int


class Roster:
    """Which servers there are; what `targets.resolve` asks of a dispatcher."""

    def __init__(self) -> None:
        self._live: list[int] = []
        self._lost: frozenset[int] = frozenset()
        self._absent: frozenset[int] = frozenset()
        self.members: dict[int, Member] = {}

    def update(self, live: list[int], absent: list[int], lost: list[int], places: list[Any]) -> None:
        """Take in what the hub says."""
        self._live, self._lost, self._absent = live, frozenset(lost), frozenset(absent)
        self.members = {rank: Member(host, pid) for rank, host, pid in places}

    def ranks(self) -> list[int]:
        """The servers that live or are being replaced, ascending."""
        return list(self._live)

    def is_live(self, rank: int) -> bool:
        """Whether this server has joined and is not lost, or is being replaced."""
        return rank in self._live

    def is_lost(self, rank: int) -> bool:
        """Whether this server was one and is gone."""
        return rank in self._lost

    def is_absent(self, rank: int) -> bool:
        """Whether this server is gone, and its replacement has not come yet."""
        return rank in self._absent
