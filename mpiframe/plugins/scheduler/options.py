"""The options of a job: one table for all batch systems, with synonyms, types and units.

`check_arguments` reads what a user gave; `Options` is the result, typed; each driver writes it in its
own words. `option_help` prints the table.
"""

from __future__ import annotations

import dataclasses
import difflib
import logging
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mpiframe.plugins.scheduler import units
from mpiframe.plugins.scheduler.errors import OptionError

log = logging.getLogger("mpiframe.plugins.scheduler")

BACKENDS = ("slurm", "pbs", "torque", "sge", "local")


@dataclass(frozen=True, slots=True)
class Options:
    """What a job asks for, read and checked. The meaning of each is in `SPECS`."""

    cores: int = 1
    nodes: int = 1
    tasks: int | None = None
    mem: int | None = None
    time: int | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    features: tuple[str, ...] = ()
    export: str | None = None
    begin: str | None = None
    pe: str = "smp"
    extra: tuple[str, ...] = ()
    depends: tuple[Any, ...] = ()
    array: str | None = None
    mpi: int | None = None
    mpiframe: int | None = None
    modules: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()
    syspaths: tuple[str, ...] = ()
    dir: str | None = None
    filedir: str | None = None
    outfile: str | None = None
    errfile: str | None = None
    suffix: str = "cluster"
    clean_files: bool = False
    clean_outputs: bool = False

    @property
    def processes(self) -> int:
        """How many processes of `cores` cores each there is to be room for."""
        return self.tasks or self.mpi or self.mpiframe or self.nodes

    @property
    def total_cores(self) -> int:
        """All cores of the job together."""
        return self.processes * self.cores


@dataclass(frozen=True, slots=True)
class Spec:
    """One option. `flags`: what it is called where a format string says it all, by batch system."""

    kind: str
    group: str
    help: str
    synonyms: tuple[str, ...] = ()
    flags: Mapping[str, str] = field(default_factory=dict)
    join: str = ","


def _flags(slurm: str = "", pbs: str = "", torque: str | None = None, sge: str = "") -> dict[str, str]:
    named = {"slurm": slurm, "pbs": pbs, "torque": pbs if torque is None else torque, "sge": sge}
    return {name: flag for name, flag in named.items() if flag}


SPECS: dict[str, Spec] = {
    "cores": Spec("int", "common", "cores for each process of the job", ("cpus", "threads")),
    "nodes": Spec("int", "cluster", "nodes; without `tasks` also how many processes there are"),
    "tasks": Spec("int", "cluster", "processes (of `cores` cores each) to make room for", ("ntasks",)),
    "mem": Spec("memory", "common", "memory per node: megabytes, or 2GB, 512M, 1.5T", ("memory",)),
    "time": Spec("time", "common", "the longest it may run: D-HH:MM:SS, HH:MM:SS, 90m, seconds",
                 ("walltime",)),
    "partition": Spec(
        "str", "cluster", "partition or queue to run in", ("queue",),
        _flags("--partition={}", "-q {}", sge="-q {}"),
    ),
    "account": Spec("str", "cluster", "account to charge", (), _flags("--account={}", "-A {}", sge="-A {}")),
    "qos": Spec("str", "cluster", "quality of service", (), _flags("--qos={}", "-l qos={}")),
    "features": Spec(
        "list", "cluster", "features that the nodes must have",
        ("constraint",), _flags("--constraint={}"), "&",
    ),
    "export": Spec(
        "str", "cluster", "environment variables to hand on, as the batch system writes them",
        (), _flags("--export={}", "-v {}", sge="-v {}"),
    ),
    "begin": Spec(
        "str", "cluster", "do not start before, as the batch system writes it",
        (), _flags("--begin={}", "-a {}", sge="-a {}"),
    ),
    "pe": Spec("str", "cluster", "Grid Engine: the parallel environment for more than one core"),
    "extra": Spec("list", "cluster", "further options, handed to the batch system as they are"),
    "depends": Spec(
        "any", "common", "jobs or ids to wait for until they completed; see afterany, afternotok",
        ("depend", "dependency", "dependencies"),
    ),
    "array": Spec("array", "common", "run it n times, MPIFRAME_ARRAY_INDEX from 0: n, or 'n%limit'"),
    "mpi": Spec("int", "common", "run the command under mpiexec, in so many ranks"),
    "mpiframe": Spec("int", "common", "run the script as a world of mpiframe with so many ranks"),
    "modules": Spec("list", "common", "environment modules to load first", ("module",)),
    "imports": Spec("list", "function", "modules to import before the function is called"),
    "syspaths": Spec("list", "function", "folders to put on Python's path", ("syspath", "paths")),
    "dir": Spec("path", "common", "folder to run in; the current one", ("path", "runpath")),
    "filedir": Spec(
        "path", "common", "folder for the job's files; the one it runs in",
        ("filepath", "scriptpath", "scriptdir", "outpath"),
    ),
    "outfile": Spec("path", "common", "where standard output goes", ("stdout",)),
    "errfile": Spec("path", "common", "where standard error goes", ("stderr",)),
    "suffix": Spec("word", "common", "part of the names of all files that the job makes"),
    "clean_files": Spec(
        "bool", "common", "delete scripts once the result was fetched",
        ("cleanfiles", "delete_files", "delfiles"),
    ),
    "clean_outputs": Spec(
        "bool", "common", "delete output files too",
        ("cleanouts", "cleanoutputs", "delete_outputs", "delouts", "deloutputs"),
    ),
}  # fmt: skip

SYNONYMS = {other: name for name, spec in SPECS.items() for other in spec.synonyms}

_ARRAY = re.compile(r"(\d+)(?:%(\d+))?")


def canonical(name: str) -> str:
    """The option's own name. Raises OptionError, naming the nearest, for one that is none."""
    found = SYNONYMS.get(name, name)
    if found not in SPECS:
        near = difflib.get_close_matches(name, [*SPECS, *SYNONYMS], 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise OptionError(f"there is no option {name!r}{hint or '.'} The function option_help lists them all")
    return found


def check_arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """Options by their own names, with values read into their types. None stands for the default.

    Memory becomes whole megabytes, walltime whole seconds. Raises OptionError.
    """
    checked: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for given_name, value in given.items():
        name = canonical(given_name)
        if name in sources:
            raise OptionError(f"{given_name!r} and {sources[name]!r} are the same option; give one of them")
        sources[name] = given_name
        if value is not None:
            checked[name] = _read(given_name, SPECS[name].kind, value)
    if "mpi" in checked and "mpiframe" in checked:
        raise OptionError("mpi and mpiframe exclude each other: the second starts its ranks itself")
    return checked


def make_options(given: Mapping[str, Any]) -> Options:
    """`Options` from what a user gave. Raises OptionError."""
    return Options(**check_arguments(given))


def array_of(text: str) -> tuple[int, int | None]:
    """(how many tasks, how many of them at once) of a checked `array`."""
    count, _, limit = text.partition("%")
    return int(count), int(limit) if limit else None


def _read(name: str, kind: str, value: Any) -> Any:
    if kind == "any":
        return tuple(value) if isinstance(value, (list, tuple, set)) else (value,)
    if kind == "memory":
        return units.memory_mb(value)
    if kind == "time":
        return units.seconds(value)
    if kind == "int":
        return _whole_number(name, value)
    if kind == "bool":
        return _truth(name, value)
    if kind == "array":
        match = _ARRAY.fullmatch(str(value).strip())
        if match is None or int(match[1]) < 1 or match[2] == "0" or isinstance(value, bool):
            raise OptionError(f"{name} {value!r} cannot be read; write a number of tasks, or '100%8'")
        return f"{int(match[1])}%{int(match[2])}" if match[2] else str(int(match[1]))
    if kind == "list":
        items = value if isinstance(value, (list, tuple, set)) else [value]
        return tuple(_text(name, item) for item in items)
    text = _text(name, value)
    if kind == "word" and not re.fullmatch(r"\w[\w.-]*", text):
        raise OptionError(f"{name} {value!r} has to be letters, digits, and _ . - between them")
    return text


def _text(name: str, value: Any) -> str:
    """Text for one line of a script: a line break in it would be a directive of its own."""
    text = str(value)
    if not text or not text.isprintable():
        raise OptionError(f"{name} {value!r} has to be printable text on one line")
    return text


def _whole_number(name: str, value: Any) -> int:
    try:
        found = int(value) if not isinstance(value, (bool, float)) or value == int(value) else None
    except (TypeError, ValueError):
        found = None
    if found is None or isinstance(value, bool) or found < 1:
        raise OptionError(f"{name} {value!r} has to be a whole number, 1 or more")
    return found


def _truth(name: str, value: Any) -> bool:
    known = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    found = known.get(str(value).lower())
    if found is None:
        raise OptionError(f"{name} {value!r} has to be True or False")
    return found


def simple_flags(options: Options, backend: str) -> list[str]:
    """The options that a format string says all about, as lines with their values quoted."""
    lines = []
    defaults = Options()
    for name, spec in SPECS.items():
        value = getattr(options, name)
        if value is None or value == getattr(defaults, name):
            continue
        text = spec.join.join(value) if spec.kind == "list" else str(value)
        if backend in spec.flags:
            lines.append(spec.flags[backend].format(shlex.quote(text)))
        elif spec.flags and name not in ("features",):
            log.info("option %s has no meaning on %s and is left out", name, backend)
    return lines


def option_help(qtype: str | None = None, mode: str = "string") -> str | list[list[str]] | None:
    """All options with type, default, synonyms and meaning.

    mode: "string" returns text, "print" prints it, "table" returns rows with a heading.
    qtype: leave out what has no meaning there. Raises OptionError for another mode or batch system.
    """
    if qtype is not None and qtype not in BACKENDS:
        raise OptionError(f"there is no batch system {qtype!r}; there are {', '.join(BACKENDS)}")
    rows = [["option", "type", "default", "synonyms", "meaning"], *_rows(qtype)]
    if mode == "table":
        return rows
    if mode not in ("string", "print"):
        raise OptionError(f"mode {mode!r} has to be 'string', 'print' or 'table'")
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4]])
        for row in rows
    ]
    text = "\n".join(line.rstrip() for line in lines) + "\n"
    if mode == "print":
        print(text, end="")
        return None
    return text


def _rows(qtype: str | None) -> Sequence[list[str]]:
    defaults = dataclasses.asdict(Options())
    found = []
    for name, spec in SPECS.items():
        if qtype == "local" and spec.group == "cluster" and name not in ("nodes", "tasks"):
            continue
        if (
            qtype
            and spec.flags
            and qtype not in spec.flags
            and spec.group == "cluster"
            and name != "features"
        ):
            continue
        default = defaults[name]
        shown = "" if default in (None, ()) else str(default)
        found.append([name, spec.kind, shown, ", ".join(spec.synonyms), spec.help])
    return found
