"""`python -m mpiframe script.py` under mpiexec or srun; also the command line, `python -m mpiframe run`."""

from __future__ import annotations

import sys


def main() -> int:
    """Run a script in the world that mpiexec made, or a subcommand."""
    from mpiframe import cli

    arguments = sys.argv[1:]
    if not arguments or arguments[0] in cli.SUBCOMMANDS:
        return cli.main(arguments)
    from mpiframe import runner

    return runner.run(arguments)


if __name__ == "__main__":
    sys.exit(main())
