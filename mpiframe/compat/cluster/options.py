"""The options of jobs, and how they are written for each batch system."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mpiframe.compat.cluster.queue import check_queue
from mpiframe.plugins.scheduler import options as _own
from mpiframe.plugins.scheduler.backends import DRIVERS
from mpiframe.plugins.scheduler.drivers import Submission
from mpiframe.plugins.scheduler.options import SPECS, SYNONYMS, Options, canonical, check_arguments

ALL_OPTIONS = sorted(SPECS)

__all__ = [
    "ALL_OPTIONS",
    "SYNONYMS",
    "check_arguments",
    "option_help",
    "option_to_string",
    "options_to_string",
]


def option_help(qtype: str | None = None, mode: str = "string") -> Any:
    """All options: mode "string" returns text, "print" prints it, "table" returns rows."""
    return _own.option_help(None if qtype is None else check_queue(qtype), mode)


def options_to_string(option_dict: Mapping[str, Any], qtype: str | None = None) -> str:
    """The directives for these options, one a line; "" in local mode."""
    mode = check_queue(qtype)
    if mode not in DRIVERS:
        check_arguments(option_dict)
        return ""
    driver = DRIVERS[mode]()
    given = Options(**check_arguments(option_dict))
    plain = driver.header(_submission(Options()))
    # What a header says of every job is not about these options.
    lines = [line for line in driver.header(_submission(given)) if line not in plain]
    return "\n".join(f"{driver.prefix} {line}" for line in lines)


def option_to_string(option: str, value: Any = None, qtype: str | None = None) -> str:
    """The directive for one option, "" where the mode has none, or the value is the default."""
    return options_to_string({canonical(option): value}, qtype)


def _submission(options: Options) -> Submission:
    count, limit = _own.array_of(options.array) if options.array else (None, None)
    return Submission("job", options, "/", "/job", "/job.out", "/job.err", "/job.log", (), count, limit)
