"""A stand-in for mk5control: `mk5control COMMAND UNIT`.

mk5control sends the command to the daemon of a Mark 5 unit, and prints its answer. There is no unit: this
says what it was asked for, or that the unit does not answer, if it is called "silent".
"""

import sys


def main(words: list[str]) -> int:
    if len(words) != 2:
        print("Usage: mk5control <command> <unit>", file=sys.stderr)
        return 1
    command, unit = words
    if unit == "silent":
        print(f"{unit} does not answer", file=sys.stderr)
        return 1
    print(f"{unit} : {command} : OK")
    return 0


sys.exit(main(sys.argv[1:]))
