"""One session: a peer is started, its figures measured, and what was found written down.

    python -m benchmarks.peers.session PEER GROUP[,GROUP ...] FILE [--quick]

runs on every rank of a peer that has ranks; only its client measures. Started by `world`.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from typing import Any

from benchmarks import peers
from benchmarks.peers import measure
from benchmarks.peers.base import BEGAN, NotThere, Peer


def main(name: str, groups: str, path: str, *options: str) -> None:
    """Run the session. Figures are written one by one: what a peer does not survive costs no more."""
    found: dict[str, Any] = {"figures": {}}
    quick = "--quick" in options

    def write() -> None:
        with open(path + ".new", "w", encoding="utf-8") as file:
            json.dump(found, file)
        os.replace(path + ".new", path)

    def record(figure: str, values: dict[str, Any]) -> None:
        found["figures"][figure] = values
        write()

    def run(peer: Peer) -> None:
        found["start"] = time.time() - float(os.environ[BEGAN])
        write()
        for figure in (figure for group in groups.split(",") for figure in measure.GROUPS[group]):
            try:
                figure(peer, record, quick)
            except NotThere as why:
                record(figure.__name__, {"missing": str(why)})
            except Exception as error:
                traceback.print_exc()
                record(figure.__name__, {"missing": f"{type(error).__name__}: {error}"[:100]})

    peers.make(name).run(run)


if __name__ == "__main__":
    main(*sys.argv[1:])
