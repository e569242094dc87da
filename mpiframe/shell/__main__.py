"""What rank 0 of `mpiframe shell` runs: `python -m mpiframe -m mpiframe.shell`."""

from __future__ import annotations

import sys

from mpiframe.shell import rank0

sys.exit(rank0.main(sys.argv[1:]))
