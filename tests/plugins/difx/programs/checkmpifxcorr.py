"""A stand-in for checkmpifxcorr: `checkmpifxcorr JOB.input`. It reads the file, and no more."""

import sys

from mpiframe.plugins.difx.formats import FormatError, Input


def main(words: list[str]) -> int:
    try:
        job = Input.read(words[-1])
        if not job.baselines:
            raise FormatError("there are no baselines")
    except (FormatError, OSError) as error:
        print(f"FATAL Config file is not consistent: {error}", file=sys.stderr)
        return 1
    print(f"No errors with input file {words[-1]}")
    return 0


sys.exit(main(sys.argv[1:]))
