"""A stand-in for vex2difx: `vex2difx -f PASS.v2d`.

It reads the .v2d file and wants the .vex file that this names, and makes .input, .calc, .flag and .joblist
of one job, PASS_N, which is always the same real job: no schedule is planned. As vex2difx does it says its
start date on stderr, where nothing is wrong.
"""

import dataclasses
import shutil
import sys
from pathlib import Path

import tests.plugins.difx.programs.install as installed
from mpiframe.plugins.difx.formats import Calc, FormatError, Input, JobList, V2d

SAMPLE = installed.HERE.parent / "data" / "real_run_tiny"


def main(words: list[str]) -> int:
    names = [word for word in words if not word.startswith("-")]
    if len(names) != 1:
        print("Usage: vex2difx [options] <v2d file>", file=sys.stderr)
        return 1
    print("start date: Sat Nov 21 09:56:01 2026", file=sys.stderr)
    path = Path(names[0]).absolute()
    try:
        v2d = V2d.read(path)
        if not (path.parent / v2d.vex).is_file():
            raise FormatError(f"cannot open vex file {v2d.vex}")
    except (FormatError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    series = v2d.get("startSeries")
    name = f"{path.stem}_{series.integer if series else 1}"
    stem = str(path.parent / name)
    job = Input.read(SAMPLE / "tiny_1.input")
    job = dataclasses.replace(
        job, calc_path=f"{stem}.calc", threads_path=f"{stem}.threads", output_path=f"{stem}.difx"
    )
    calc = Calc.read(SAMPLE / "tiny_1.calc")
    calc = dataclasses.replace(
        calc, vex_path=str(path.parent / v2d.vex), im_path=f"{stem}.im", flag_path=f"{stem}.flag"
    )
    joblist = JobList.read(SAMPLE / "tiny.joblist")
    listed = dataclasses.replace(joblist.jobs[0], name=name)
    dataclasses.replace(joblist, jobs=(listed,)).write(path.with_suffix(".joblist"))
    calc.write(f"{stem}.calc")
    job.write(f"{stem}.input")
    shutil.copyfile(SAMPLE / "tiny_1.flag", f"{stem}.flag")
    print(f"1 job created: {name}")
    return 0


sys.exit(main(sys.argv[1:]))
