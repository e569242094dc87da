"""The same workload on mpiframe, on raw mpi4py, and on the packages that users would otherwise pick.

    speed.py ──> world.py PEER      one process a session: starts the peer's world, ends it in time
                   └─> session.py   on every rank (or once): starts the peer, measures, writes JSON
                         ├─ base.Peer     what a peer can be asked to do; one small module each
                         └─ measure.py    the workload: the figures, measured the same way for all

This module only lists the peers; it imports none of them.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .base import Peer


@dataclass(frozen=True)
class Entry:
    """A peer: how it is called, where it is, how its world is started, what is measured of it.

    Attributes
    ----------
    title: its name in tables.
    module: the module here that has its class `ThePeer`, which gets `options`.
    package: the distribution it comes from; "" for what is here in any case.
    start: "mpiframe", "mpi" (ranks that all run the session), "pool" (the same, below `-m mpi4py.futures`),
        "charm" or "alone" (one process, which starts the rest itself).
    every: groups of figures (see measure.GROUPS) that are measured in every round.
    once: those that are measured in the first round only. Their ratios do not hang on a few per cent, and
        they take most of the time.
    clients: in worlds of ranks, those that are no servers.
    each_mpi: whether it is measured with every MPI, or with the first one only.
    by_mpi: whether its data travel by MPI.
    quick: whether it takes part when there is little time.
    """

    title: str
    module: str
    package: str
    start: str
    every: tuple[str, ...] = ()
    once: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    clients: int = 1
    each_mpi: bool = False
    by_mpi: bool = False
    quick: bool = True


_ALL = ("commands", "idle", "arrays", "gib")
_ONCE = ("idle", "arrays", "gib")  # of those whose commands are compared in every round

ENTRIES: dict[str, Entry] = {
    "raw": Entry(
        "raw mpi4py", "raw", "mpi4py", "mpi", ("commands", "arrays", "gib"), ("idle",), each_mpi=True
    ),
    "ours": Entry(
        "mpiframe",
        "ours",
        "",
        "mpiframe",
        ("commands", "arrays", "gib", "many"),
        ("idle", "growth"),
        each_mpi=True,
    ),
    # Its 64 MiB are measured beside raw's arrays: see speed.py.
    "raw-fresh": Entry(
        "raw, fresh memory", "raw", "mpi4py", "mpi", ("gib",), (), {"fresh": True}, each_mpi=True
    ),
    "futures": Entry("mpi4py.futures", "mpi_futures", "mpi4py", "mpi", ("commands",), _ONCE, each_mpi=True),
    "futures-pkl5": Entry(
        "the same, pkl5", "mpi_futures", "mpi4py", "mpi", ("commands",), _ONCE, {"pkl5": True}, each_mpi=True
    ),
    "pool": Entry(
        "MPIPoolExecutor", "mpi_futures", "mpi4py", "pool", (), _ALL, {"pool": True}, by_mpi=True, quick=False
    ),
    "pool-pkl5": Entry(
        "MPIPoolExecutor, pkl5",
        "mpi_futures",
        "mpi4py",
        "pool",
        (),
        _ALL,
        {"pool": True, "pkl5": True},
        by_mpi=True,
        quick=False,
    ),
    "charm4py": Entry("charm4py", "charm", "charm4py", "charm", ("commands",), _ONCE),
    "schwimmbad": Entry("schwimmbad", "schwimmbad_pool", "schwimmbad", "mpi", (), _ALL, by_mpi=True),
    "ray": Entry("ray", "ray_actors", "ray", "alone", ("arrays",), ("commands", "idle", "gib")),
    "dask-mpi": Entry("dask-mpi", "dask_ranks", "dask-mpi", "mpi", (), _ALL, clients=2),
    "ipyparallel": Entry("ipyparallel", "ipy", "ipyparallel", "alone", (), _ALL),
    "casampi": Entry("casampi", "casa", "casampi", "mpi", (), ("commands", "idle"), by_mpi=True, quick=False),
}


def make(name: str) -> Peer:
    """The peer of this name, not started yet."""
    entry = ENTRIES[name]
    module = importlib.import_module(f"{__name__}.{entry.module}")
    peer: Peer = module.ThePeer(**entry.options)
    return peer
