"""What runs on a server: commands with parameters, and the names that they find without importing."""

from __future__ import annotations

import importlib.util
import logging
import os
import subprocess
import tempfile
import time
import traceback
import uuid
from typing import Any

import cloudpickle

from mpiframe import server
from mpiframe.compat.casampi._books import Echo
from mpiframe.compat.casampi._casalog import LogSink
from mpiframe.compat.casampi._logs import server_file
from mpiframe.compat.casampi.MPIEnvironment import MPIEnvironment
from mpiframe.messages import Mode
from mpiframe.namespace import describe

log = logging.getLogger("mpiframe.casampi")

_sink: Any = None  # the log that commands have at hand, whatever they do to its name

_TOOLS = {
    "af": "agentflagger",
    "cb": "calibrater",
    "cl": "componentlist",
    "cs": "coordsys",
    "fn": "functional",
    "ia": "image",
    "im": "imager",
    "me": "measures",
    "ms": "ms",
    "msmd": "msmetadata",
    "po": "imagepol",
    "qa": "quanta",
    "rg": "regionmanager",
    "sm": "simulator",
    "tb": "table",
    "vp": "vpmanager",
}
"""The tools that a CASA session has at hand, by the names it has them under."""


def run(expression: bool, command: str, parameters: dict[str, Any]) -> Echo:
    """Run a command with its parameters as variables, which are gone afterwards."""
    here = server.current()
    assert here is not None
    names = here.namespace.names
    before = {name: names[name] for name in parameters if name in names}
    if expression and command.endswith("()") and parameters:
        command = f"{command[:-1]}{', '.join(f'{name}={name}' for name in parameters)})"
    # run_string would change these too; it must not see which of ours the command has bound anew.
    names.update(parameters)
    try:
        value = here.namespace.run_string(Mode.EVAL if expression else Mode.EXEC, command, None)
        return Echo((True, value, _portable(parameters)))
    except BaseException as error:
        return Echo((False, describe(error)[0], _portable(parameters)))
    finally:
        for name in parameters:
            if name in before:
                names[name] = before[name]
            else:
                names.pop(name, None)


def put(parameters: dict[str, Any]) -> Echo:
    """Set variables that stay."""
    here = server.current()
    assert here is not None
    here.namespace.names.update(parameters)
    return Echo((True, None, parameters))


def _portable(parameters: dict[str, Any]) -> dict[str, Any]:
    """The parameters without those that a command has made impossible to send back."""
    kept = {}
    for name, value in parameters.items():
        if type(value).__module__ not in ("builtins", "numpy") or isinstance(value, (list, dict, tuple, set)):
            try:
                cloudpickle.dumps(value)
            except Exception as error:
                log.warning("the parameter %s cannot be sent back: %s", name, error)
                continue
        kept[name] = value
    return kept


def prepare(log_mode: str, log_path: str) -> str | None:
    """Lay out the names that commands find without importing, and say where CASA's log goes.

    Returns the version of CASA, None without it.
    """
    global _sink
    here = server.current()
    assert here is not None
    names: dict[str, Any] = {
        "time": time,
        "os": os,
        "traceback": traceback,
        "subprocess": subprocess,
        "tempfile": tempfile,
        "uuid": uuid,
        "MPIEnvironment": MPIEnvironment,
    }
    casa, version = _casa()
    names.update(casa)
    _sink = names["casalog"]
    for name, value in names.items():
        here.namespace.names.setdefault(name, value)
    log_to(log_mode, log_path)
    return version


def _casa() -> tuple[dict[str, Any], str | None]:
    """CASA's tasks, tools and log, or a log of our own where CASA is not."""
    if importlib.util.find_spec("casatasks") is not None:
        try:
            import casatasks
            import casatools
        except Exception as error:  # what casaconfig raises where the measures data are not, among others
            log.warning(
                "casatasks is installed here but cannot be imported, so no task is at hand: %s", error
            )
        else:
            names = {name: getattr(casatasks, name) for name in casatasks.__all__ if hasattr(casatasks, name)}
            for name, tool in _TOOLS.items():
                try:
                    names[name] = getattr(casatools, tool)()
                except Exception as error:  # some look for data that only they need
                    log.warning("CASA's tool %s (%s) is not at hand: %s", name, tool, error)
            names["casalog"].processorOrigin(MPIEnvironment.processor_origin)
            return names, casatasks.version_string()
    return {"casalog": LogSink(MPIEnvironment.processor_origin)}, None


def log_to(mode: str, path: str) -> None:
    """Where CASA's own log goes; ours goes to the client, which writes it."""
    if not isinstance(_sink, LogSink):
        _sink.setlogfile(
            server_file(path, MPIEnvironment.mpi_processor_rank) if mode == "separated" else path
        )
        _sink.showconsole(mode == "redirect")


def set_command_level(level: str) -> None:
    """Note at which level the handling of commands is logged."""
    MPIEnvironment.command_handling_log_level = level


def casalog(what: str, value: Any) -> Any:
    """Call a method of the log that commands have at hand, whatever they have made of its name."""
    return getattr(_sink, what)(value)


def set_omp_num_threads(threads: int) -> None:
    """How many threads OpenMP may use in this process."""
    (_sink or LogSink()).ompSetNumThreads(threads)
