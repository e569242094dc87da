"""What goes into a sandbox: read from GRID_LRT's YAML (v0.5) and JSON (v1) configurations.

Sandbox:                                           "sandbox": {
    name: pref_cal1                                    "git": {"url": ..., "branch": "prefactor"},
    loc: SKSP/prefactor                                "scripts": [
    git: {location: https://..., branch: prefactor}        {"prefactor": {"url": ..., "commit": ...}}
    git_scripts:                                       ]
        prefactor: {git_url: ..., commit: c625e8f}     }
Shell_variables: {OBSID: $OBSID,                   "Token": {"variables": {"_attachments": {...},
    _attachments: {srm.txt: $SRMFILE}}                 "_token_keys": {"$OBSID": "OBSID"}}}
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from mpiframe.plugins.grid.storage_errors import ConfigError, MissingTool, of_disk, shown

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")
_COMMIT = re.compile(r"[0-9a-fA-F]{7,64}")
_BRANCH = re.compile(r"(?!-)(?!.*(\.\.|@\{|//))[^\s~^:?*\[\\\x00-\x1f\x7f]+(?<![./])")
_SCP = re.compile(r"(?!-)[A-Za-z0-9_.-]+@[A-Za-z0-9.-]+:(?!:)[^\s]+")
_GIT_SCHEMES = ("https", "http", "ssh", "git", "file")
_NOTHING = (None, "", "None", "none", "null")


@dataclass(frozen=True)
class GitSource:
    """A repository at a commit, or at a branch; the default branch if neither is named.

    checkout_dir: the folder below the sandbox that it goes to, "" the sandbox itself. Raises ConfigError.
    """

    url: str
    branch: str | None = None
    commit: str | None = None
    checkout_dir: str = ""

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        local = self.url.startswith("/")
        if not (local or _SCP.fullmatch(self.url) or (parts.scheme in _GIT_SCHEMES and "://" in self.url)):
            allowed = ", ".join(f"{scheme}://" for scheme in _GIT_SCHEMES)
            raise ConfigError(f"{shown(self.url)!r} is no repository: {allowed}user@host:path or /path")
        if parts.password is not None or (parts.username is not None and parts.scheme.startswith("http")):
            raise ConfigError(
                f"{shown(self.url)}: a user or password does not belong into a configuration; git's "
                "credential helpers keep them"
            )
        if self.branch is not None and not _BRANCH.fullmatch(self.branch):
            raise ConfigError(f"{self.branch!r} is no name of a branch")
        if self.commit is not None and not _COMMIT.fullmatch(self.commit):
            raise ConfigError(f"{self.commit!r} is no commit: at least 7 hexadecimal digits")
        path = self.checkout_dir
        if path and (path.startswith("/") or not all([_NAME.fullmatch(part) for part in path.split("/")])):
            raise ConfigError(f"{path!r} is no folder below the sandbox")


@dataclass(frozen=True)
class SandboxConfig:
    """A sandbox. name: of its archive; location: the folder in the storage that it is uploaded to.

    base: what is at its top level; scripts: what is in folders below. variables: what `tokvar.cfg` tells,
    which fields of a token (and `_attachments`: which attachments) become which shell variables.
    """

    name: str
    base: GitSource | None = None
    scripts: tuple[GitSource, ...] = ()
    location: str = ""
    variables: Mapping[str, Any] = field(default_factory=dict)
    remove_when_done: bool = True

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ConfigError(f"{self.name!r} is no name of a sandbox: letters, digits, and _ . + - inside")
        if ".." in self.location.split("/"):
            raise ConfigError(f"{self.location!r} is no folder to upload to")
        if self.base is None and not self.scripts:
            raise ConfigError(f"the sandbox {self.name} names no repository, so nothing would be in it")
        folders = [one.checkout_dir for one in self.scripts]
        for folder in folders:
            if folders.count(folder) > 1 or folder == "tokvar.cfg":
                raise ConfigError(f"the sandbox {self.name} has several things at {folder!r}")

    @property
    def sbxloc(self) -> str:
        """Where it is below the storage's folder of sandboxes: the token's field SBXloc."""
        return "/".join(filter(None, [self.location.strip("/"), f"{self.name}.tar"]))


def read_config(path: str | os.PathLike[str], name: str | None = None) -> SandboxConfig:
    """A sandbox's configuration, YAML or JSON. name: of the sandbox, where the file does not say.

    Raises ConfigError naming the file, and the line of what cannot be read; NoSuchFile.
    """
    file = os.fspath(path)
    try:
        with open(file, encoding="utf-8") as stream:
            text = stream.read()
    except OSError as error:
        raise of_disk(error, file) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} is no text: byte {error.start} is not UTF-8") from None
    read = _json if file.endswith(".json") or text.lstrip().startswith("{") else _yaml
    found = read(text, file)
    stem = os.path.splitext(os.path.basename(file))[0]
    try:
        return config_of(found, name or stem)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None


def config_of(found: Any, name: str) -> SandboxConfig:
    """A configuration as it was parsed. Raises ConfigError."""
    if not isinstance(found, Mapping):
        raise ConfigError(f"a configuration is made of sections, not of a {type(found).__name__}")
    if "Sandbox" in found:
        return _v05(_section(found, "Sandbox"), found, name)
    if "sandbox" in found:
        return _v1(_section(found, "sandbox"), found, name)
    near = difflib.get_close_matches("Sandbox", [str(key) for key in found], 1)
    hint = f"; did you mean {near[0]!r} to be it?" if near else ""
    raise ConfigError(f"there is no section Sandbox (YAML) or sandbox (JSON){hint}")


def _v05(sandbox: Mapping[str, Any], found: Mapping[str, Any], name: str) -> SandboxConfig:
    scripts = []
    for folder, one in _section(sandbox, "git_scripts", optional=True).items():
        entry = _entry(one, f"git_scripts.{folder}", ("git_url", "branch", "commit"))
        scripts.append(_source(entry, "git_url", f"git_scripts.{folder}", str(folder)))
    git = _section(sandbox, "git", optional=True)
    base = None
    if git:
        base = _source(_entry(git, "git", ("location", "branch", "commit")), "location", "git", "")
    return SandboxConfig(
        name=_text(sandbox.get("name")) or name,
        base=base,
        scripts=tuple(scripts),
        location=_text(sandbox.get("loc")) or "",
        variables=dict(_section(found, "Shell_variables", optional=True)),
        remove_when_done=str(sandbox.get("remove_when_done", True)).lower() not in ("false", "no", "0"),
    )


def _v1(sandbox: Mapping[str, Any], found: Mapping[str, Any], name: str) -> SandboxConfig:
    known = ("url", "branch", "commit", "checkout_dir")
    git = _section(sandbox, "git", optional=True)
    base = None
    if git:
        entry = _entry(git, "sandbox.git", known)
        base = _source(entry, "url", "sandbox.git", _folder(entry.get("checkout_dir")))
    scripts = []
    several = sandbox.get("scripts") or []
    if not isinstance(several, list):
        raise ConfigError("sandbox.scripts has to be a list")
    for number, one in enumerate(several):
        where = f"sandbox.scripts[{number}]"
        if not isinstance(one, Mapping) or len(one) != 1:
            raise ConfigError(f"{where} has to be one name with its repository")
        ((folder, below),) = one.items()
        entry = _entry(below, f"{where}.{folder}", known)
        place = _folder(entry.get("checkout_dir")) or str(folder)
        scripts.append(_source(entry, "url", f"{where}.{folder}", place))
    variables = _section(_section(found, "Token", optional=True), "variables", optional=True)
    told: dict[str, Any] = {
        str(key): str(shell) for shell, key in _section(variables, "_token_keys", optional=True).items()
    }
    attached = _section(variables, "_attachments", optional=True)
    if attached:
        told["_attachments"] = {str(file): str(shell) for shell, file in attached.items()}
    own = _text(sandbox.get("name")) or name
    return SandboxConfig(own, base, tuple(scripts), _text(sandbox.get("loc")) or "", told)


def _source(entry: Mapping[str, Any], url: str, where: str, folder: str) -> GitSource:
    if _text(entry.get(url)) is None:
        raise ConfigError(f"{where} has no {url}")
    try:
        return GitSource(str(entry[url]), _text(entry.get("branch")), _text(entry.get("commit")), folder)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _entry(value: Any, where: str, known: tuple[str, ...]) -> Mapping[str, Any]:
    """The description of a repository; a key that nobody reads is an error: it would change what is run."""
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where} has to name {' and '.join(known)}, and is {value!r}")
    for key in value:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            raise ConfigError(f"{where} has no option {key!r}{hint} Its options: {', '.join(known)}")
    return value


def _section(found: Mapping[str, Any], name: str, optional: bool = False) -> Mapping[str, Any]:
    value = found.get(name)
    if value is None and optional:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigError(f"the section {name} has to be made of names with values, and is {value!r}")
    return value


def _text(value: Any) -> str | None:
    """A value as text; what people write for nothing is None."""
    return None if value in _NOTHING else str(value)


def _folder(value: Any) -> str:
    text = _text(value)
    return "" if text in (None, ".", "./") else str(text).strip("/")


def _yaml(text: str, file: str) -> Any:
    try:
        import yaml
    except ImportError:
        raise MissingTool("YAML takes the package PyYAML: pip install mpiframe[grid]") from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or error
        raise ConfigError(f"{file}{where}: {problem}") from None


def _json(text: str, file: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{file}, line {error.lineno}, column {error.colno}: {error.msg}") from None
