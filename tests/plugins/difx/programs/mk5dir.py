"""A stand-in for mk5dir: `mk5dir -n -f VSN`, which writes $MARK5_DIR_PATH/VSN.dir.

mk5dir reads the module in a Mark 5 unit. There is none: the directory that this writes has two made up scans;
a module called EMPTY cannot be read.
"""

import os
import sys
from pathlib import Path


def main(words: list[str]) -> int:
    vsn = words[-1]
    print(f"reading module {vsn}")
    if vsn == "EMPTY":
        print(f"module {vsn} cannot be read", file=sys.stderr)
        return 1
    lines = [f"{vsn} 2 A", "0 1000 60022 75600 0 1 2 0 0 scan_a", "1000 1000 60022 75602 0 1 2 0 0 scan_b"]
    Path(os.environ["MARK5_DIR_PATH"], f"{vsn}.dir").write_text("".join(f"{line}\n" for line in lines))
    return 0


sys.exit(main(sys.argv[1:]))
