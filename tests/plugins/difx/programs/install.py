"""Puts the stand-ins for DiFX's programs where DiFX would be: $DIFX_BASE with a version "STAND-IN".

    python install.py FOLDER            prints what to set in the environment

The stand-ins are no correlator. They take the options, make the files, send the messages and end with the
exit status that DiFX's own programs do (2.9, as was seen of a real build), from the files of one real job.
What each of them leaves out is said in its docstring.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[3]
VERSION = "STAND-IN"
PROGRAMS = {name: name for name in ("vex2difx", "calcif2", "checkmpifxcorr", "mpifxcorr")}
PROGRAMS |= {name: name for name in ("mk5control", "mk5dir", "mk5cp", "vsum")} | {"m5bsum": "vsum"}


def install(folder: Path, python: str = sys.executable) -> Path:
    """Make the folder a $DIFX_BASE; returns it."""
    (folder / "bin").mkdir(parents=True, exist_ok=True)
    programs = folder / "programs"
    programs.mkdir(exist_ok=True)
    for name, stand_in in PROGRAMS.items():
        source = (HERE / f"{stand_in}.py").read_text()
        path = programs / name
        # Under its own name, for a job's processes are found by that.
        setup = f"#!{python}\nimport sys\nsys.path.insert(0, {str(ROOT)!r})\n"
        path.write_text(f"{setup}exec(compile({source!r}, __file__, 'exec'))\n")
        path.chmod(0o755)
    setup = folder / "bin" / f"rungeneric.{VERSION}"
    setup.write_text(f'#!/bin/sh\nPATH="{programs}:$PATH"\nexport PATH\nexec "$@"\n')
    setup.chmod(0o755)
    return folder


if __name__ == "__main__":
    print(f"DIFX_BASE={install(Path(sys.argv[1]).absolute())}\nDIFX_VERSION={VERSION}")
