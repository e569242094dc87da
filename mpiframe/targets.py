"""What `target=` may be, and what it means."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any, Literal, Protocol

from mpiframe.errors import ServerLost, TargetError


class Roster(Protocol):
    """Who knows which servers there are."""

    def ranks(self) -> list[int]:
        """The servers that live or are being replaced, ascending."""

    def is_live(self, rank: int) -> bool:
        """Whether this server has joined and is not lost, or is being replaced."""

    def is_lost(self, rank: int) -> bool:
        """Whether this server was one and is gone."""


Target = int | Iterable[int] | Literal["all"] | None
"""None (the first free server), a rank, several ranks, or "all"."""


def resolve(target: Target, dispatcher: Roster) -> int | list[int] | None:
    """None, one rank, or a list of ranks; every rank names a live server.

    Raises TargetError or ServerLost, naming the choices.
    """
    if target is None:
        return None
    if type(target) is int and dispatcher.is_live(target):
        return target
    if isinstance(target, str):
        if target != "all":
            raise TargetError(f"target={target!r} is no target; {_choices(dispatcher)}")
        ranks = dispatcher.ranks()
        if not ranks:
            raise ServerLost("no server is left")
        return ranks
    if _is_rank(target):
        return _checked(target, dispatcher)
    if isinstance(target, Iterable) and not isinstance(target, (bytes, dict)):
        try:
            given: list[Any] = list(target)
        except TypeError:  # such as an array without dimensions
            given = [target]
        chosen = [_checked(rank, dispatcher) for rank in given]
        if not chosen:
            raise TargetError(
                f"target is an empty list, so no server would run the command; {_choices(dispatcher)}"
            )
        return chosen
    raise TargetError(f"target={target!r} is a {type(target).__name__}; {_choices(dispatcher)}")


def each(ranks: int | list[int] | None) -> list[Any]:
    """What `resolve` gave, as a list; [None] for the first free server."""
    return ranks if isinstance(ranks, list) else [ranks]


def places(target: Any, servers: list[int]) -> list[int]:
    """The ranks of a target, each once, whether they live or not. Raises TargetError."""
    if isinstance(target, str) and target == "all":
        return list(servers)
    given = (
        list(target) if isinstance(target, Iterable) and not isinstance(target, (str, bytes)) else [target]
    )
    for rank in given:
        if isinstance(rank, bool) or not _is_rank(rank) or operator.index(rank) not in servers:
            known = ", ".join(map(str, servers))
            raise TargetError(f'there is no server {rank!r} to restart; choose of {known}, or "all"')
    return list(dict.fromkeys(map(operator.index, given)))


def _is_rank(value: Any) -> bool:
    return hasattr(value, "__index__") and not hasattr(value, "__len__")


def _checked(value: Any, dispatcher: Roster) -> int:
    # numpy.bool_ has no __index__ in current numpy, but had one that warned; its name tells.
    if isinstance(value, bool) or type(value).__name__ in ("bool_", "bool") or not _is_rank(value):
        raise TargetError(
            f"{value!r} in target is a {type(value).__name__}, not a rank; {_choices(dispatcher)}"
        )
    rank = operator.index(value)
    if dispatcher.is_live(rank):
        return rank
    if dispatcher.is_lost(rank):
        raise ServerLost(f"server {rank} is lost; {_choices(dispatcher)}")
    if rank == 0:
        raise TargetError(f"rank 0 is the client itself, not a server; {_choices(dispatcher)}")
    raise TargetError(f"there is no server {rank}; {_choices(dispatcher)}")


def _choices(dispatcher: Roster) -> str:
    ranks = dispatcher.ranks()
    if len(ranks) > 6 and ranks == list(range(ranks[0], ranks[-1] + 1)):
        known = f"{ranks[0]} to {ranks[-1]}"
    else:
        known = ", ".join(map(str, ranks)) or "none left"
    return f'choose None (the first free server), a rank (servers: {known}), a list of ranks, or "all"'
