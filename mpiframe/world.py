"""The world of one run: who is in it. `opening` opens it.

A member is addressed as (communicator, rank); everything above this module uses the Transport only.
"""

from __future__ import annotations

import contextlib
import mmap
import sys
from dataclasses import dataclass

from mpi4py import MPI

from mpiframe import joining
from mpiframe.config import Config
from mpiframe.messages import WorldFacts
from mpiframe.transport import Transport

CLIENT = 0
LEVELS = {
    MPI.THREAD_SINGLE: "SINGLE",
    MPI.THREAD_FUNNELED: "FUNNELED",
    MPI.THREAD_SERIALIZED: "SERIALIZED",
    MPI.THREAD_MULTIPLE: "MULTIPLE",
}


@dataclass(frozen=True, slots=True)
class Member:
    """One rank, as it introduced itself."""

    rank: int
    host: str
    host_key: str
    pid: int
    cores: tuple[int, ...]  # the cores it may run on
    quota: int  # cores its container leaves to all, 0 without a limit
    addresses: tuple[str, ...]
    python: str


@dataclass(slots=True)
class World:
    """An opened world, on either side."""

    comm: MPI.Intracomm
    rank: int
    size: int
    config: Config
    transport: Transport
    members: dict[int, Member]  # on a server: the client and itself only
    wakes: dict[int, str]  # server rank -> "unix", "tcp" or "polling"
    why_polling: dict[int, str]
    cores: int
    base: MPI.Intracomm  # of those who were there from the start, to make groups of
    resilient: str = ""  # "ulfm" or "joined", if it outlives a dead server
    page: tuple[int, mmap.mmap] | None = None  # on the client: the shared page and its descriptor
    dismissed: bool = False  # its servers were told to end, though no client was ever made

    @property
    def servers(self) -> list[int]:
        """The ranks of all servers."""
        return [rank for rank in range(self.size) if rank != CLIENT]

    def facts(self) -> WorldFacts:
        """What this world stands on."""
        return WorldFacts(
            mpi=MPI.Get_library_version().split("\n")[0].strip("\0 "),
            thread_level=LEVELS.get(MPI.Query_thread(), "?"),
            ranks=self.size,
            hosts=len({m.host_key for m in self.members.values()}),
            doorbell=dict(self.wakes),
            spin=self.transport.spin > 0,
            cores=self.cores,
        )

    def abort(self, code: int) -> None:
        """End every process of the world now. The last resort: nothing is cleaned up."""
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):  # closed, or gone
                stream.flush()
        if self.resilient:
            joining.await_end(code, self.rank == CLIENT)
        self.comm.Abort(code)
