"""`python -m mpiframe.compat.casampi script.py`: an unchanged script, with our casampi for the original."""

from __future__ import annotations

import sys


def main(argv: list[str]) -> int:
    """Run [script, arguments...] or ["-m", module, arguments...]; the exit status of this rank."""
    if not argv or argv == ["-m"]:
        print("usage: python -m mpiframe.compat.casampi script.py|-m module [arguments ...]", file=sys.stderr)
        return 2
    from mpiframe import runner
    from mpiframe.compat.casampi.MPIEnvironment import MPIEnvironment

    if not MPIEnvironment.is_mpi_enabled:
        return runner.run_alone(argv)  # such scripts ask MPIEnvironment, and do their work by themselves
    from mpiframe.compat.casampi import _session

    return runner.run(argv, before_end=_session.end_of_script)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
