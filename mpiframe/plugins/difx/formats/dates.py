"""Dates as DiFX's files write them, as Modified Julian Days (UTC) and back."""

from __future__ import annotations

import datetime
import re

from mpiframe.plugins.difx.formats.text import number

_MJD_OF_1970 = 40587
_DAY_SECONDS = 86400.0
_MONTHS = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"]
_CLOCK = r"(?:(?P<h>\d{1,2}):(?P<m>\d{1,2})(?::(?P<s>\d{1,2}(?:\.\d*)?))?)"
_FORMS = [
    # 2009y245d08h12m24s, of which the end may be missing
    re.compile(
        r"(?P<year>\d{4})y(?P<doy>\d{1,3})d(?:(?P<h>\d{1,2})h(?:(?P<m>\d{1,2})m(?:(?P<s>\d{1,2}(?:\.\d*)?)s)?)?)?"
    ),
    re.compile(rf"(?P<year>\d{{4}})(?P<month>[A-Za-z]{{3}})(?P<day>\d{{1,2}})(?:-{_CLOCK})?"),
    re.compile(rf"(?P<year>\d{{4}})-(?P<month>\d{{1,2}})-(?P<day>\d{{1,2}})(?:[T ]{_CLOCK})?"),
]


def mjd(text: str) -> float:
    """The MJD of a date: 55076.34, 2009y245d08h12m24s, 2009SEP02-08:12:24 or 2009-09-02T08:12:24.

    Raises ValueError.
    """
    for form in _FORMS:
        match = form.fullmatch(text.strip().removesuffix("Z"))
        if match is not None:
            return _mjd_of(match.groupdict())
    try:
        return number(text.strip())
    except ValueError:
        raise ValueError(f"a date was expected, not {text!r}: as 2009y245d08h12m24s, or an MJD") from None


def _mjd_of(parts: dict[str, str | None]) -> float:
    year = int(parts["year"] or 0)
    try:
        if (doy := parts.get("doy")) is not None:
            day = datetime.date(year, 1, 1).toordinal() + int(doy) - 1
            if not 1 <= int(doy) <= 366:
                raise ValueError(f"day {doy} of a year")
        else:
            month = parts["month"] or ""
            number_of = int(month) if month.isdigit() else _MONTHS.index(month.upper()) + 1
            day = datetime.date(year, number_of, int(parts["day"] or 0)).toordinal()
    except ValueError as error:
        raise ValueError(f"there is no such date: {error}") from None
    hours, minutes, seconds = (float(parts[name] or 0) for name in "hms")
    if hours > 24 or minutes >= 60 or seconds > 60:
        raise ValueError(f"there is no such time of a day: {hours:g}:{minutes:g}:{seconds:g}")
    first = datetime.date(1970, 1, 1).toordinal()
    return day - first + _MJD_OF_1970 + (hours * 3600 + minutes * 60 + seconds) / _DAY_SECONDS


def vex_date(value: float) -> str:
    """An MJD as vex files write it, 2009y245d08h12m24s; rounded to the microsecond."""
    moment = moment_of(value)
    moment = moment.replace(tzinfo=None)
    fraction = f".{moment.microsecond:06d}".rstrip("0") if moment.microsecond else ""
    return f"{moment:%Yy%jd%Hh%Mm%S}{fraction}s"


def moment_of(value: float) -> datetime.datetime:
    """An MJD as a time in UTC, rounded to the microsecond. Raises ValueError far from our age."""
    # A float has no more than a microsecond at today's dates, and shows the rest as noise.
    microseconds = round((value - _MJD_OF_1970) * _DAY_SECONDS * 1e5) * 10
    try:
        return datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc) + datetime.timedelta(
            microseconds=microseconds
        )
    except OverflowError:
        raise ValueError(f"{value!r} is no date") from None
