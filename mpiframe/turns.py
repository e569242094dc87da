"""A queue in which several owners take turns: the client, and each session of attached processes."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator

from mpiframe.messages import Owner, Request, Status


class Queue:
    """Requests that wait, in lines: one an owner, each in the order of pushing.

    Nearly always there is one owner, and then all is in `line`. That is empty only if the others are, too.
    """

    __slots__ = ("held", "line", "others", "owner")

    def __init__(self) -> None:
        self.owner: Owner | None = None
        self.line: deque[Request] = deque()  # of the owner whose turn it is
        self.others: OrderedDict[Owner | None, deque[Request]] = OrderedDict()  # the next one first
        self.held: dict[Owner | None, deque[Request]] = {}  # lines that wait until their owner is released

    def __len__(self) -> int:
        """How many may be sent, and those that have ended and are still here."""
        return len(self.line) + (sum(map(len, self.others.values())) if self.others else 0)

    def __iter__(self) -> Iterator[Request]:
        for line in (self.line, *self.others.values(), *self.held.values()):
            yield from line

    def add(self, request: Request) -> None:
        """The last one of its owner's line."""
        owner = request.owner
        if owner is self.owner:
            self.line.append(request)
        elif not self.line:
            self.owner = owner
            self.line.append(request)
        else:
            self.others.setdefault(owner, deque()).append(request)

    def put_back(self, request: Request) -> None:
        """It is the next one again."""
        owner = request.owner
        if owner is not self.owner:
            line = self.others.pop(owner, deque())
            if self.line:
                self.others[self.owner] = self.line
                self.others.move_to_end(self.owner, last=False)
            self.owner, self.line = owner, line
        self.line.appendleft(request)

    def take(self) -> None:
        """Take the next one out; then it is the next owner's turn."""
        self.line.popleft()
        if self.others:
            if self.line:
                self.others[self.owner] = self.line
            self.owner, self.line = self.others.popitem(last=False)

    def skip(self) -> None:
        """Take the next one out, which has ended; it was nobody's turn."""
        self.line.popleft()
        if not self.line and self.others:
            self.owner, self.line = self.others.popitem(last=False)

    def hold(self, owner: Owner | None) -> int:
        """Keep this owner's requests back; how many live ones these are."""
        if owner is self.owner:
            line, self.line = self.line, deque()
            self.owner = None
            if self.others:
                self.owner, self.line = self.others.popitem(last=False)
        else:
            line = self.others.pop(owner, deque())
        if line:
            self.held[owner] = line
        return count_live(line)

    def release(self, owner: Owner | None) -> int:
        """They are to have turns again; how many live ones these are."""
        line = self.held.pop(owner, None)
        if line is None:
            return 0
        for request in line:
            self.add(request)
        return count_live(line)

    def clear(self) -> None:
        """Nothing waits any more."""
        self.line.clear()
        self.others.clear()
        self.held.clear()


def count_live(line: Iterable[Request]) -> int:
    """How many of these have not ended."""
    return sum(request.status is Status.QUEUED for request in line)
