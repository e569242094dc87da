"""A stand-in for vsum and m5bsum: `vsum -s -r MJD FILE`, which prints the file's name, its begin and its end.

They read headers of VDIF and Mark 5B data. This reads a file of text with the two times, in days.
"""

import sys
from pathlib import Path


def main(words: list[str]) -> int:
    name = words[-1]
    try:
        begin, end = (float(word) for word in Path(name).read_text().split())
    except ValueError:
        print(f"{name} is no file of {Path(sys.argv[0]).name}'s", file=sys.stderr)
        return 1
    print(f"{name} {begin:.7f} {end:.7f}")
    return 0


sys.exit(main(sys.argv[1:]))
