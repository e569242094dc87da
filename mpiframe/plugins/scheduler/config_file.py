"""Profiles and defaults: `mpiframe/scheduler.ini` below `$XDG_CONFIG_HOME` (`~/.config`).

    [default]            used where no profile is named
    mem = 4GB
    [profile large]
    cores = 16
    time = 24:00:00

`MPIFRAME_SCHEDULER_CONFIG` names another file.
"""

from __future__ import annotations

import configparser
import io
import os
from collections.abc import Mapping
from typing import Any

from mpiframe.plugins.scheduler import files
from mpiframe.plugins.scheduler.errors import OptionError
from mpiframe.plugins.scheduler.options import SPECS, Options, canonical, check_arguments

_DEFAULT = "default"
_PROFILE = "profile "


def path() -> str:
    """Where the file is, or would be."""
    named = os.environ.get("MPIFRAME_SCHEDULER_CONFIG")
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return named or os.path.join(home, "mpiframe", "scheduler.ini")


def get_profile(name: str | None = None) -> dict[str, Any]:
    """The options of a profile; None is the default one, empty if the file has none. Raises OptionError."""
    if name is None and not os.path.exists(path()):
        return {}  # which most jobs ask for
    parser = load()
    section = _DEFAULT if name is None else f"{_PROFILE}{name}"
    if not parser.has_section(section):
        if name in (None, _DEFAULT):
            return {}
        known = ", ".join(profiles()) or "none"
        raise OptionError(f"there is no profile {name!r} in {path()}; there are: {known}")
    given = {canonical(key): _value(key, text) for key, text in parser.items(section)}
    return check_arguments(given)


def profiles() -> list[str]:
    """The names of all profiles."""
    return [name[len(_PROFILE) :] for name in load().sections() if name.startswith(_PROFILE)]


def set_profile(name: str | None, options: Mapping[str, Any]) -> None:
    """Write a profile, None the default one; what it held before is gone. Raises OptionError."""
    check_arguments(options)
    parser = load()
    section = _DEFAULT if name is None else f"{_PROFILE}{name}"
    parser.remove_section(section)
    parser.add_section(section)
    for key, value in options.items():
        text = "\n".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
        parser.set(section, key, text)
    save(parser)


def delete_profile(name: str) -> None:
    """Take a profile out of the file. Raises OptionError if there is none."""
    parser = load()
    if not parser.remove_section(f"{_PROFILE}{name}"):
        raise OptionError(f"there is no profile {name!r} in {path()}")
    save(parser)


def options_of(given: Mapping[str, Any], profile: str | None, *, defaults: bool = True) -> Options:
    """What is given, over the profile, or over the default one if none is named. Raises OptionError."""
    checked = check_arguments(given)
    below = get_profile(profile) if defaults or profile is not None else {}
    return Options(**{**below, **checked})


def _value(key: str, text: str) -> Any:
    return text.split("\n") if SPECS[canonical(key)].kind == "list" else text


def load() -> configparser.ConfigParser:
    """The file as it is. Raises OptionError."""
    parser = configparser.ConfigParser(interpolation=None, default_section="")
    try:
        parser.read_string(files.read_text(path()), source=path())
    except configparser.Error as error:
        raise OptionError(f"{path()} cannot be read: {error}") from error
    return parser


def save(parser: configparser.ConfigParser) -> None:
    """Write the file. Raises OptionError."""
    text = io.StringIO()
    parser.write(text)
    try:
        os.makedirs(os.path.dirname(path()), exist_ok=True)
        files.replace(path(), text.getvalue().encode())
    except OSError as error:
        raise OptionError(f"{path()} cannot be written: {error}") from error
