"""What a job is to do: written as ADL (EMI-ES 2010/12) or as xRSL, both of which an element reads."""

from __future__ import annotations

import os
import re
import xml.etree.ElementTree as tree
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from mpiframe.plugins.grid.arc.errors import DescriptionError

_ADL = "http://www.eu-emi.eu/es/2010/12/adl"
_NORDUGRID = "http://www.nordugrid.org/es/2011/12/nordugrid-adl"
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True)
class JobDescription:
    """One job.

    executable: a path on the element, or the name of an input. arguments: blanks and quotes arrive as they
    are, but ARC's scripts let a shell there read dollars, backticks and backslashes in them.
    inputs: name in the job's folder to a file of ours, which is sent, or to a URL, which the element reads.
    outputs: name in the job's folder to a URL to which the element writes it; "" keeps it to be fetched. A
    name that ends in "/" is a folder. What is no output is deleted when the job ends; stdout and stderr are
    outputs without being named. runtime_environments: such as "APPS/PYTHON-3.11"; memory_bytes is per slot.
    """

    executable: str
    arguments: Sequence[str] = ()
    name: str = "mpiframe"
    inputs: Mapping[str, str | os.PathLike[str]] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    executables: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    stdin: str = ""
    stdout: str = "stdout.txt"
    stderr: str = "stderr.txt"
    queue: str = ""
    slots: int = 1
    memory_bytes: int | None = None
    wall_seconds: int | None = None
    cpu_seconds: int | None = None
    runtime_environments: Sequence[str] = ()

    def __post_init__(self) -> None:
        if isinstance(self.arguments, str):
            raise DescriptionError(f"arguments: a list of words, not one text: {self.arguments!r}")
        if not self.executable:
            raise DescriptionError("executable: there is none")
        for name in [*self.inputs, *self.outputs, *filter(None, (self.stdin, self.stdout, self.stderr))]:
            check_name(name)
        for variable in self.environment:
            if not _VARIABLE.fullmatch(variable):
                raise DescriptionError(f"environment: {variable!r} cannot be a variable's name")
        for name in self.executables:
            if name not in self.inputs:
                raise DescriptionError(f"executables: {name!r} is none of the inputs")
        limits = {
            "slots": self.slots,
            "memory_bytes": self.memory_bytes,
            "wall_seconds": self.wall_seconds,
            "cpu_seconds": self.cpu_seconds,
        }
        for what, value in limits.items():
            if value is not None and value < 1:
                raise DescriptionError(f"{what}: {value} is less than 1")

    @property
    def uploads(self) -> dict[str, str]:
        """The inputs that we send: name in the job's folder to our file."""
        return {name: os.fspath(source) for name, source in self.inputs.items() if not is_url(source)}

    @property
    def needs_delegation(self) -> bool:
        """Whether the element has to read or write elsewhere in our name."""
        return any(map(is_url, self.inputs.values())) or any(self.outputs.values())

    def _all_outputs(self) -> dict[str, str]:
        own = {name: "" for name in (self.stdout, self.stderr) if name}
        return {**own, **self.outputs}

    def _is_executable(self, name: str) -> bool:
        return name in self.executables or name == self.executable

    def to_adl(self, delegation: str = "") -> str:
        """As ADL; `delegation` is the id of one, for interface 1.0, which wants it in here."""
        root = tree.Element("ActivityDescription", {"xmlns": _ADL, "xmlns:nordugrid-adl": _NORDUGRID})
        _add(_add(root, "ActivityIdentification"), "Name", self.name)
        self._add_application(_add(root, "Application"))
        self._add_resources(_add(root, "Resources"))
        self._add_staging(_add(root, "DataStaging"), delegation)
        return tree.tostring(root, encoding="unicode")

    def _add_application(self, application: tree.Element) -> None:
        executable = _add(application, "Executable")
        _add(executable, "Path", self.executable)
        for argument in self.arguments:
            _add(executable, "Argument", argument)
        for tag, name in (("Input", self.stdin), ("Output", self.stdout), ("Error", self.stderr)):
            if name:
                _add(application, tag, name)
        for variable, value in self.environment.items():
            option = _add(application, "Environment")
            _add(option, "Name", variable)
            _add(option, "Value", value)

    def _add_resources(self, resources: tree.Element) -> None:
        for environment in self.runtime_environments:
            name, dash, version = environment.rpartition("-")
            runtime = _add(resources, "RuntimeEnvironment")
            _add(runtime, "Name", name if dash else environment)
            if dash:
                _add(runtime, "Version", version)
        if self.memory_bytes is not None:
            _add(resources, "IndividualPhysicalMemory", self.memory_bytes)
        if self.cpu_seconds is not None:
            _add(resources, "TotalCPUTime", self.cpu_seconds)
        if self.wall_seconds is not None:
            _add(resources, "WallTime", self.wall_seconds)
        if self.slots != 1:
            _add(_add(resources, "SlotRequirement"), "NumberOfSlots", self.slots)
        if self.queue:
            _add(resources, "QueueName", self.queue)

    def _add_staging(self, staging: tree.Element, delegation: str) -> None:
        if delegation:
            _add(staging, "nordugrid-adl:DelegationID", delegation)
        for name, source in self.inputs.items():
            file = _add(staging, "InputFile")
            _add(file, "Name", name)
            if is_url(source):
                _add_place(file, "Source", source, delegation)
            if self._is_executable(name):
                _add(file, "IsExecutable", "true")
        for name, target in self._all_outputs().items():
            file = _add(staging, "OutputFile")
            _add(file, "Name", name)
            if target:
                _add_place(file, "Target", target, delegation)

    def to_xrsl(self, delegation: str = "") -> str:
        """As xRSL; CPU and wall times in seconds, memory in MB as that wants it."""
        parts: list[tuple[str, list[str] | list[list[str]]]] = [
            ("executable", [self.executable]),
            ("jobname", [self.name]),
        ]
        if self.arguments:
            parts.append(("arguments", list(self.arguments)))
        for key, name in (("stdin", self.stdin), ("stdout", self.stdout), ("stderr", self.stderr)):
            if name:
                parts.append((key, [name]))
        if self.environment:
            parts.append(("environment", [[name, value] for name, value in self.environment.items()]))
        if self.inputs:
            pairs = [[name, str(source) if is_url(source) else ""] for name, source in self.inputs.items()]
            parts.append(("inputfiles", pairs))
        if marked := [name for name in self.inputs if self._is_executable(name)]:
            parts.append(("executables", marked))
        parts.append(("outputfiles", [[name, target] for name, target in self._all_outputs().items()]))
        for key, number in (
            ("memory", None if self.memory_bytes is None else -(-self.memory_bytes // 2**20)),
            ("cputime", self.cpu_seconds),
            ("walltime", self.wall_seconds),
            ("count", self.slots if self.slots != 1 else None),
        ):
            if number is not None:
                parts.append((key, [f"{number}s" if key.endswith("time") else str(number)]))
        if self.queue:
            parts.append(("queue", [self.queue]))
        parts += [("runtimeenvironment", [environment]) for environment in self.runtime_environments]
        if delegation:
            parts.append(("delegationid", [delegation]))
        return "&" + "".join(f"({key}={_values(values)})" for key, values in parts)


def _values(values: Sequence[str] | Sequence[Sequence[str]]) -> str:
    return " ".join(_quoted(v) if isinstance(v, str) else f"({_values(v)})" for v in values)


def _quoted(text: str) -> str:
    if "\0" in text:
        raise DescriptionError(f"a text with a zero in it cannot be sent: {text!r}")
    return '"' + text.replace('"', '""') + '"'


def _add(parent: tree.Element, tag: str, value: object = None) -> tree.Element:
    element = tree.SubElement(parent, tag)
    if value is not None:
        element.text = _xml_text(str(value))
    return element


def _add_place(file: tree.Element, tag: str, address: object, delegation: str) -> None:
    """Where the element reads or writes a file itself, and in whose name."""
    place = _add(file, tag)
    _add(place, "URI", address)
    if delegation:
        _add(place, "DelegationID", delegation)


def _xml_text(text: str) -> str:
    if found := _NOT_XML.search(text):
        raise DescriptionError(f"XML cannot hold {found.group()!r}, in {text!r}")
    return text


def is_url(source: str | os.PathLike[str]) -> bool:
    """Whether the element is to read it, and not we."""
    return isinstance(source, str) and bool(urlsplit(source).netloc) and "://" in source


def check_name(name: str) -> str:
    """A file's name in a job's folder, if it can be one. Raises DescriptionError."""
    parts = name.rstrip("/").split("/")
    if not name or name.startswith("/") or any(part in ("", ".", "..") for part in parts) or "\0" in name:
        raise DescriptionError(f"{name!r} cannot be a file in a job's folder: a path inside it, without '..'")
    return name


def language(text: str) -> str:
    """The media type of a description that somebody wrote. Raises DescriptionError."""
    start = text.lstrip()[:1]
    if start == "<":
        return "application/xml"
    if start and start in "&+|(":
        return "application/rsl"
    raise DescriptionError(
        f"neither ADL, which begins with '<', nor xRSL, which does with '&': {text[:60]!r}"
    )
