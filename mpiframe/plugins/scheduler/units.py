"""Memory and walltime as people write them."""

from __future__ import annotations

import math
import re

from mpiframe.plugins.scheduler.errors import OptionError

_MEMORY = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*([bkmgt]?)(?:i?b)?", re.IGNORECASE)
_MEGABYTES = {"b": 2.0**-20, "k": 2.0**-10, "m": 1.0, "": 1.0, "g": 2.0**10, "t": 2.0**20}
_CLOCK = re.compile(r"(?:(\d+)-)?(\d+(?::\d+){0,2})")
_WORD = re.compile(
    r"(\d+(?:\.\d+)?)\s*(?:(d)(?:ays?)?|(h)(?:(?:ou)?rs?)?|(m)(?:in(?:ute)?s?)?|(s)(?:ec(?:ond)?s?)?)(?![a-z])\s*",
    re.IGNORECASE,
)
_SECONDS = {"d": 86400, "h": 3600, "m": 60, "s": 1}


def memory_mb(value: object) -> int:
    """Whole megabytes (of 2**20 bytes, rounded up) of `4000`, "4000", "2GB", "2.5g", "512 MiB".

    A number without a unit is megabytes. Raises OptionError.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        found = float(value)
    else:
        match = _MEMORY.fullmatch(str(value).strip())
        if match is None or isinstance(value, bool):
            raise OptionError(f"memory {value!r} cannot be read; write megabytes (4000), or 2GB, 512M, 1.5T")
        found = float(match[1]) * _MEGABYTES[match[2].lower()]
    if not math.isfinite(found) or found <= 0:
        raise OptionError(f"memory {value!r} has to be more than nothing")
    return math.ceil(found)


def seconds(value: object) -> int:
    """Whole seconds of a walltime: D-HH:MM:SS, D-HH:MM, D-HH, HH:MM:SS, MM:SS, seconds, "90 min", "1d 2h".

    A number without a unit is seconds. Raises OptionError.
    """
    text = str(value).strip()
    found: float | None = None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        found = float(value)
    elif match := _CLOCK.fullmatch(text):
        parts = [int(part) for part in match[2].split(":")]
        if match[1] is not None:  # after days the hours come first
            parts += [0] * (3 - len(parts))
        clock = 0
        for part in parts:
            clock = clock * 60 + part
        found = clock + 86400 * int(match[1] or 0)
    elif text and not _WORD.sub("", text):
        found = sum(float(number) * _SECONDS["".join(unit).lower()] for number, *unit in _WORD.findall(text))
    if found is None or not math.isfinite(found):
        raise OptionError(
            f"walltime {value!r} cannot be read; write D-HH:MM:SS, HH:MM:SS, MM:SS, seconds, or 90m, 12h, 2d"
        )
    if found <= 0:
        raise OptionError(f"walltime {value!r} has to be more than nothing")
    return math.ceil(found)


def clock(total: int) -> str:
    """HH:MM:SS, the hours as many as there are: what every batch system here reads."""
    return f"{total // 3600:02}:{total // 60 % 60:02}:{total % 60:02}"
