"""A stand-in for calcif2 and difxcalc: `calcif2 [-f] JOB.calc ...`.

It reads the .calc file and writes the .im file that this names, of the real job's delays whatever the file
says: nothing is calculated. A model that is newer than its .calc file is left as it is, unless forced.
"""

import sys
from pathlib import Path

import tests.plugins.difx.programs.install as installed
from mpiframe.plugins.difx.formats import Calc, FormatError

SAMPLE = installed.HERE.parent / "data" / "real_run_tiny" / "tiny_1.im"


def main(words: list[str]) -> int:
    names = [word for word in words if not word.startswith("-")]
    failed = 0
    for name in names:
        try:
            calc = Calc.read(name)
            model = Path(calc.im_path or "")
            if model.is_file() and model.stat().st_mtime >= Path(name).stat().st_mtime and "-f" not in words:
                print(f"{model} is newer: skipping")
                continue
            model.write_bytes(SAMPLE.read_bytes())
            print(f"Processing file 1/1: {name}")
        except (FormatError, OSError) as error:
            print(f"Error: {error}", file=sys.stderr)
            failed = 1
    return failed if names else 1


sys.exit(main(sys.argv[1:]))
