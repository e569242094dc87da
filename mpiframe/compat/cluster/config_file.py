"""Profiles and settings in a file: the one that the scheduler plugin reads."""

from __future__ import annotations

import configparser
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

from mpiframe.plugins.scheduler import config_file as _own
from mpiframe.plugins.scheduler.errors import OptionError


class Profile(MutableMapping[str, Any]):
    """Options of jobs under a name: a dictionary whose keys are attributes, too."""

    def __init__(self, name: str, kwds: Mapping[str, Any]) -> None:
        self.__dict__["name"] = name
        self.__dict__["args"] = dict(kwds)

    def write(self) -> None:
        """Write it to the config file."""
        set_profile(self.name, self.args)

    def __getattr__(self, key: str) -> Any:
        try:
            return self.__dict__["args"][key]
        except KeyError:
            raise AttributeError(key) from None

    def __setattr__(self, key: str, value: Any) -> None:
        self.args[key] = value

    def __getitem__(self, key: str) -> Any:
        return self.args[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self.args[key] = value

    def __delitem__(self, key: str) -> None:
        del self.args[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.args)

    def __len__(self) -> int:
        return len(self.args)

    def __repr__(self) -> str:
        return f"{self.name}<{self.args}>"


def get_config() -> configparser.ConfigParser:
    """The file as it is."""
    return _own.load()


def get(section: str | None = None, key: str | None = None, default: Any = None) -> Any:
    """A setting, a section as a dictionary, or everything.

    A key that is not there is written with its default, if one is given; else it is None.
    """
    parser = get_config()
    if section is None:
        return {name: dict(parser.items(name)) for name in parser.sections()}
    if key is None:
        return dict(parser.items(section)) if parser.has_section(section) else None
    if parser.has_option(section, key):
        text = parser.get(section, key)
        return int(text) if text.isdigit() else text
    if default is not None:
        set(section, key, default)
    return default


def set(section: str, key: str, value: Any) -> None:
    """Write a setting."""
    parser = get_config()
    if not parser.has_section(section):
        parser.add_section(section)
    parser.set(section, key, str(value))
    _own.save(parser)


def delete(section: str, key: str | None = None) -> None:
    """Delete a setting, or a section. Raises OptionError if there is none."""
    parser = get_config()
    gone = parser.has_section(section) and (
        parser.remove_section(section) if key is None else parser.remove_option(section, key)
    )
    if not gone:
        raise OptionError(f"there is no {key or section!r} in {_own.path()}")
    _own.save(parser)


def get_profile(profile: str | None = None) -> Any:
    """A Profile, or None if there is none of that name; without a name all of them."""
    if profile is None:
        return {name: Profile(name, _own.get_profile(name)) for name in _own.profiles()}
    if profile == "default":
        return Profile(profile, _own.get_profile(None))
    return Profile(profile, _own.get_profile(profile)) if profile in _own.profiles() else None


def set_profile(name: str, args: Mapping[str, Any]) -> None:
    """Write a profile; "default" is the one that is used where none is named."""
    _own.set_profile(None if name == "default" else name, args)
