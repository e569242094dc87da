"""A stand-in for mk5cp: `mk5cp -f VSN SCANS FOLDER`.

mk5cp copies scans of a module to files. There is no module: what this writes for each scan is its name. There
are scans 1 and 2; others cannot be copied.
"""

import sys
from pathlib import Path


def main(words: list[str]) -> int:
    vsn, scans, folder = words[-3:]
    first, _, last = scans.partition("-")
    for number in range(int(first), int(last or first) + 1):
        if number not in (1, 2):
            print(f"{vsn} has no scan {number}", file=sys.stderr)
            return 1
        Path(folder, f"{vsn}_{number}").write_text(f"scan {number} of {vsn}")
        print(f"copied scan {number} of {vsn}")
    return 0


sys.exit(main(sys.argv[1:]))
