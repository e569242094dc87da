"""Makes the measures data that CASA asks for, as small as it may be: python measures_data.py FOLDER.

The real data (earth rotation, leap seconds, observatories) CASA fetches from the network itself. A test needs
only that the tables are there, hold the simulated dates, and give sensible positions.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

# What casaconfig expects of a data folder; all but `geodetic` stay empty.
FOLDERS = ("alma", "catalogs", "demo", "ephemerides", "geodetic", "gui", "nrao")

# From an MJD on, TAI - UTC is so many seconds + (MJD - offset) * rate: exact, as the IERS publishes it.
LEAP_COLUMNS = ("MJD", "dUTC", "Offset", "Multiplier")
LEAP_UNITS = {"MJD": "d", "dUTC": "s", "Offset": "d", "Multiplier": "s"}
DRIFTS = (
    (37300, 1.422818, 37300, 0.001296),
    (37512, 1.372818, 37300, 0.001296),
    (37665, 1.845858, 37665, 0.0011232),
    (38334, 1.945858, 37665, 0.0011232),
    (38395, 3.24013, 38761, 0.001296),
    (38486, 3.34013, 38761, 0.001296),
    (38639, 3.44013, 38761, 0.001296),
    (38761, 3.54013, 38761, 0.001296),
    (38820, 3.64013, 38761, 0.001296),
    (38942, 3.74013, 38761, 0.001296),
    (39004, 3.84013, 38761, 0.001296),
    (39126, 4.31317, 39126, 0.002592),
    (39887, 4.21317, 39126, 0.002592),
)
# From 1972 on it is 10 s and a whole second more at each of these but the first, up to 2017.
LEAPS = (
    *(41317, 41499, 41683, 42048, 42413, 42778, 43144, 43509, 43874, 44239, 44786, 45151, 45516, 46247),
    *(47161, 47892, 48257, 48804, 49169, 49534, 50083, 50630, 51179, 53736, 54832, 56109, 57204, 57754),
)

# Longitude, latitude and height of the real ones; good to a kilometre, of a few among many.
SITE_COLUMNS = ("MJD", "Name", "Type", "Long", "Lat", "Height", "Source", "Comment")
SITE_UNITS = {"MJD": "d", "Long": "deg", "Lat": "deg", "Height": "m"}
SITES = (
    ("ALMA", -67.7549, -23.0229, 5056.8),
    ("ATCA", 149.5501, -30.3129, 236.9),
    ("EVLA", -107.6184, 34.0790, 2115.0),
    ("LOFAR", 6.8699, 52.9153, 49.3),
    ("MeerKAT", 21.4439, -30.7111, 1086.6),
    ("VLA", -107.6184, 34.0790, 2115.0),
    ("WSRT", 6.6033, 52.9147, 64.0),
)

# Polar motion, UT1 - UTC, corrections to nutation, the errors of these: all taken as zero. So the sky is off
# by up to 15 arcseconds, but the same way for all that reads these data.
EARTH_COLUMNS = (
    *("MJD", "x", "y", "dUT1", "LOD", "dPsi", "dEps"),
    *("Dx", "Dy", "DdUT1", "DLOD", "DdPsi", "DdEps"),
)
EARTH_UNITS = {"MJD": "d", "dUT1": "s", "LOD": "s", "DdUT1": "s", "DLOD": "s"}
EARTH_FIRST, EARTH_DAYS = 51544, 20_000  # 2000 to 2054, to hold any simulated date, and today


def site_config(folder: Path, logfile: Path) -> str:
    """The text of the file that CASASITECONFIG names, for the data in `folder`.

    A relative `logfile` lies in the working folder of each process.
    """
    folder = folder.absolute()
    settings = {
        "measurespath": str(folder),
        "datapath": [str(folder)],
        "cachedir": str(folder / "cache"),
        "measures_auto_update": False,
        "data_auto_update": False,
        "nologger": True,
        "nogui": True,
        "agg": True,
        "logfile": str(logfile),
        "casaconfig_verbose": 0,
    }
    return "".join(f"{name} = {value!r}\n" for name, value in settings.items())


def make(folder: Path, python: str = sys.executable) -> None:
    """Makes the data in `folder`, with the casatools of the interpreter `python`."""
    # A process of its own, as casatools reads its settings only once, at import.
    subprocess.run([python, __file__, str(folder)], check=True)


def _write(folder: Path) -> None:
    """What `make` does, in a process that has not imported casatools."""
    _make_folders(folder)
    # casaconfig warns of data with no readme of its own, in which it wants a list of files too
    date = time.strftime("%Y-%m-%d", time.gmtime())
    readme = f"# made for tests, not the real data\nversion : test\ndate : {date}\n# files\ngeodetic\n"
    for place in (folder, folder / "geodetic"):
        (place / "readme.txt").write_text(readme)
    with tempfile.TemporaryDirectory() as scratch:
        # casatools cannot be imported unless it finds this table. A folder of its name is enough for that.
        bare, site = Path(scratch), Path(scratch, "site.py")
        _make_folders(bare)
        (bare / "geodetic" / "IERSeop2000").mkdir()
        site.write_text(site_config(bare, bare / "casa.log"))
        os.environ["CASASITECONFIG"] = str(site)
        _write_tables(folder / "geodetic")


def _make_folders(folder: Path) -> None:
    for name in FOLDERS:
        (folder / name).mkdir(parents=True, exist_ok=True)


def _write_tables(geodetic: Path) -> None:
    # casacore wants a row for each day, the first for the day after MJD0
    earth = [[0.0] * EARTH_DAYS for _ in EARTH_COLUMNS]
    earth[0] = [EARTH_FIRST + 1.0 + day for day in range(EARTH_DAYS)]
    units = dict.fromkeys(EARTH_COLUMNS, "arcsec") | EARTH_UNITS
    for name in ("IERSeop97", "IERSeop2000", "IERSpredict", "IERSpredict2000"):
        _write_table(geodetic / name, EARTH_COLUMNS, earth, units, MJD0=float(EARTH_FIRST), dMJD=1.0)

    leaps = (*DRIFTS, *((mjd, 10 + number, 0, 0) for number, mjd in enumerate(LEAPS)))
    columns = ([float(value) for value in column] for column in zip(*leaps, strict=True))
    _write_table(geodetic / "TAI_UTC", LEAP_COLUMNS, columns, LEAP_UNITS)

    sites = ((50000.0, name, "WGS84", *position, "test", "") for name, *position in SITES)
    columns = (list(column) for column in zip(*sites, strict=True))
    _write_table(geodetic / "Observatories", SITE_COLUMNS, columns, SITE_UNITS)


def _write_table(
    path: Path, names: Iterable[str], columns: Iterable[list[Any]], units: dict[str, str], **more: float
) -> None:
    """Writes a table of numbers and strings in the form that casacore expects of measures data."""
    from casatools import table  # not before its settings are there

    data = dict(zip(names, columns, strict=True))
    description = {}
    for name, column in data.items():
        description[name] = {
            "valueType": "string" if isinstance(column[0], str) else "double",
            "dataManagerType": "IncrementalStMan",  # of values that stay the same it keeps one
            "keywords": {"UNIT": units[name]} if name in units else {},
        }
    tool = table()
    tool.create(str(path), description, nrow=len(column))
    for name, column in data.items():
        tool.putcol(name, column)
    # The date is that of today as casacore complains of leap seconds that are older than half a year.
    now = time.strftime("%Y/%m/%d/%H:%M", time.gmtime())
    keywords = {"VS_CREATE": now, "VS_DATE": now, "VS_VERSION": "0001.0001", "VS_TYPE": "made for tests"}
    for name, value in {**keywords, **more}.items():
        tool.putkeyword(name, value)
    tool.putinfo({"type": "IERS", "subType": path.name, "readme": "made for tests, not the real data"})
    tool.close()


if __name__ == "__main__":
    _write(Path(sys.argv[1]).absolute())
