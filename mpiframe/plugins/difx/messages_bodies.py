"""The bodies of all DiFX messages, after difxmessage 2.9: names, order and forms of what is sent.

Moments are modified Julian days (UTC), as DiFX writes them; rates are bytes a second unless a comment says
otherwise. What a comment calls a mistake is one of DiFX's, read either way and written as DiFX does.
"""

from __future__ import annotations

from dataclasses import dataclass

from mpiframe.plugins.difx.messages_fields import (
    MJD,
    Body,
    choice,
    empty_elements,
    flag,
    indices,
    integer,
    node,
    nodes,
    optional_choice,
    optional_integer,
    optional_real,
    optional_text,
    processes,
    real,
    text,
    texts,
)
from mpiframe.plugins.difx.messages_recorders import (
    DriveStats,
    Mark5Status,
    Mark5Version,
    Mark6Activity,
    Mark6SlotStatus,
    Mark6Status,
    Smart,
)
from mpiframe.plugins.difx.messages_states import DifxState, Severity, StartFunction, known

_ANTENNAS = 50
_DATASTREAMS, _PROCESSORS = 50, 100


# -- from a correlation ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Load(Body):
    """A node's load; memory in KiB, rates in bytes a second."""

    type = "DifxLoadMessage"
    wrapper = "difxLoad"
    cpu_load: float = real("cpuLoad", "%4.2f")
    total_memory: int = integer("totalMemory")
    used_memory: int = integer("usedMemory")
    received: int = integer("netRXRate")
    sent: int = integer("netTXRate")
    cores: int = integer("nCore")


@dataclass(frozen=True)
class Alert(Body):
    """What a program has to say; severity as in `Severity`."""

    type = "DifxAlertMessage"
    wrapper = "difxAlert"
    input: str | None = optional_text("input")
    message: str = text("alertMessage")
    severity: int = integer("severity", int(Severity.INFO))


@dataclass(frozen=True)
class Weight:
    """The part of an antenna's data that was there, 0 to 1."""

    antenna: int
    weight: float


@dataclass(frozen=True)
class Status(Body):
    """Where a correlation is: the moment of its last visibilities, 0 before there are any."""

    type = "DifxStatusMessage"
    wrapper = "difxStatus"
    input: str | None = optional_text("input")
    state: DifxState | str = choice("state", known(DifxState), "")  # noqa: RUF009
    message: str = text("message")
    visibility_mjd: float = real("visibilityMJD", MJD)
    start_mjd: float | None = optional_real("jobstartMJD", MJD)
    stop_mjd: float | None = optional_real("jobstopMJD", MJD)
    weights: tuple[Weight, ...] = empty_elements("weight", Weight, ("ant", "wt"), ("%d", "%5.3f"), _ANTENNAS)

    @property
    def progress(self) -> float | None:
        """How much is done, 0 to 1; None where the message does not tell."""
        if self.state in (DifxState.DONE, DifxState.MPI_DONE):
            return 1.0
        if self.start_mjd is None or self.stop_mjd is None or self.stop_mjd <= self.start_mjd:
            return None
        return min(1.0, max(0.0, (self.visibility_mjd - self.start_mjd) / (self.stop_mjd - self.start_mjd)))


@dataclass(frozen=True)
class Info(Body):
    """A text for people."""

    type = "DifxInfoMessage"
    wrapper = "difxInfo"
    message: str = text("message")


@dataclass(frozen=True)
class Datastream(Body):
    """Nothing: DiFX has the type, and never sends it."""

    type = "DifxDatastreamMessage"


@dataclass(frozen=True)
class Transient(Body):
    """A stretch of data to be kept, for a transient."""

    type = "DifxTransientMessage"
    wrapper = "difxTransient"
    job: str = text("jobId")
    start_mjd: float = real("startMJD", MJD)
    stop_mjd: float = real("stopMJD", MJD)
    priority: float = real("priority", "%f")
    folder: str = text("destDir")
    comment: str = text("comment")
    dispersion: float = real("dm", "%f")


@dataclass(frozen=True)
class Diagnostic(Body):
    """What a process measures of itself; which fields are there depends on `kind`.

    MemoryUsage and DataConsumed: bytes. BufferStatus: thread and elements. ProcessingTime: thread and
    microseconds. InputDatarate: bytes_per_second. NumSubintsLost: lost.
    """

    type = "DifxDiagnosticMessage"
    wrapper = "difxDiagnostic"
    kind: str = text("diagnosticType")
    thread: int | None = optional_integer("threadId")
    elements: int | None = optional_integer("numBufElements")
    start_element: int | None = optional_integer("startBufElement")
    active_elements: int | None = optional_integer("activeBufElements")
    microseconds: float | None = optional_real("microsec", "%f")
    bytes: int | None = optional_integer("bytes")
    bytes_per_second: float | None = optional_real("bytespersec", "%f")
    lost: int | None = optional_integer("numSubintsLost")


# -- to a correlation -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Command(Body):
    """A command for all daemons."""

    type = "DifxCommand"
    wrapper = "difxCommand"
    command: str = text("command")


@dataclass(frozen=True)
class Parameter(Body):
    """A parameter of a running mpifxcorr is to change.

    target: a rank, -1 for all; -2 and -3 for all datastreams and all cores, of which DiFX's sources say both
    which is which; -10 with hosts in the header. DiFX sends a second index with tags that do not match.
    """

    type = "DifxParameter"
    wrapper = "difxParameter"
    target: int = integer("targetMpiId", -1)
    name: str = text("name")
    index: tuple[int, ...] = indices()
    value: str = text("value")


@dataclass(frozen=True)
class Process:
    """Hosts that compute, with so many threads each."""

    nodes: tuple[str, ...]
    threads: int = 1


@dataclass(frozen=True)
class Start(Body):
    """Begin a correlation; restart_seconds: how far into the job."""

    type = "DifxStart"
    wrapper = "difxStart"
    input: str = text("input")
    environment: tuple[str, ...] = texts("env")
    mpi_wrapper: str | None = optional_text("mpiWrapper")
    mpi_options: str | None = optional_text("mpiOptions")
    program: str | None = optional_text("difxProgram")
    force: bool = flag("force", "1", "0")
    version: str | None = optional_text("difxVersion")
    restart_seconds: float | None = optional_real("restartSeconds", "%s")
    function: StartFunction | str | None = optional_choice("function", known(StartFunction))  # noqa: RUF009
    address: str | None = optional_text("address")
    port: int | None = optional_integer("port")
    manager: str = node("manager")
    datastreams: tuple[str, ...] = nodes("datastream", _DATASTREAMS)
    processes: tuple[Process, ...] = processes("process", Process, _PROCESSORS)


@dataclass(frozen=True)
class Stop(Body):
    """End a correlation: mpifxcorr's rank 0 hears it, if process 0 and the job are in the header."""

    type = "DifxStop"
    wrapper = "difxStop"
    input: str | None = optional_text("input")
    mpi_wrapper: str | None = optional_text("mpiWrapper")
    version: str | None = optional_text("difxVersion")
    program: str | None = optional_text("difxProgram")


# -- for the guiServer ----------------------------------------------------------------------------


@dataclass(frozen=True)
class FileTransfer(Body):
    """A file to or from the correlator's host; direction: "to DiFX" or "from DiFX"."""

    type = "DifxFileTransfer"
    wrapper = "difxFileTransfer"
    origin: str | None = optional_text("origin")
    destination: str | None = optional_text("destination")
    node: str | None = optional_text("dataNode")
    address: str | None = optional_text("address")
    direction: str = text("direction")
    port: int | None = optional_integer("port")


@dataclass(frozen=True)
class FileOperation(Body):
    """ls, mkdir, rmdir, rm, mv, cp or touch."""

    type = "DifxFileOperation"
    wrapper = "difxFileOperation"
    path: str = text("path")
    operation: str = text("operation")
    node: str | None = optional_text("dataNode")
    arguments: str | None = optional_text("arg")
    address: str | None = optional_text("address")
    port: int | None = optional_integer("port")


@dataclass(frozen=True)
class Vex2DifxRun(Body):
    """Run vex2difx and calc. DiFX's Python client looks for other names of these, and finds none."""

    type = "DifxVex2DifxRun"
    wrapper = "difxVex2difxRun"
    user: str | None = optional_text("user")
    node: str | None = optional_text("node")
    version: str | None = optional_text("difxVersion")
    path: str = text("passPath")
    file: str = text("file")
    address: str | None = optional_text("address")
    port: int | None = optional_integer("port")
    calc_command: str | None = optional_text("calcCommand")
    calc_only: bool = flag("calcOnly", "1", "0")


@dataclass(frozen=True)
class MachinesDefinition(Body):
    """Write a job's .machines and .threads files."""

    type = "DifxMachinesDefinition"
    wrapper = "difxMachinesDefinition"
    input: str = text("input")
    manager: str = node("manager")
    datastreams: tuple[str, ...] = nodes("datastream", _DATASTREAMS)
    processes: tuple[Process, ...] = processes("process", Process, _PROCESSORS)
    mpi_wrapper: str | None = optional_text("mpiWrapper")
    mpi_options: str | None = optional_text("mpiOptions")
    version: str | None = optional_text("difxVersion")
    test_processors: bool = flag("testProcessors")
    machines_file: str | None = optional_text("machinesFile")
    threads_file: str | None = optional_text("threadsFile")
    address: str | None = optional_text("address")
    port: int | None = optional_integer("port")


@dataclass(frozen=True)
class GetDirectory(Body):
    """List a Mark 5 module."""

    type = "DifxGetDirectory"
    wrapper = "difxGetDirectory"
    mpi_wrapper: str | None = optional_text("mpiWrapper")
    version: str | None = optional_text("difxVersion")
    mark5: str = text("mark5")
    vsn: str = text("vsn")
    address: str | None = optional_text("address")
    port: int | None = optional_integer("port")
    generate_new: bool = flag("generateNew", "1", "0")


@dataclass(frozen=True)
class Mark5Control(Body):
    """A command for a Mark 5 unit."""

    type = "DifxMk5Control"
    wrapper = "difxMk5Control"
    command: str = text("command")
    node: str = text("targetNode")
    address: str | None = optional_text("address")
    port: int | None = optional_integer("port")


@dataclass(frozen=True)
class Mark5Copy(Body):
    """Copy scans from a Mark 5 module."""

    type = "DifxMark5Copy"
    wrapper = "difxMark5Copy"
    mpi_wrapper: str | None = optional_text("mpiWrapper")
    version: str | None = optional_text("difxVersion")
    mark5: str = text("mark5")
    vsn: str = text("vsn")
    scans: str = text("scans")
    destination: str = text("destination")
    address: str | None = optional_text("address")
    port: int | None = optional_integer("port")


# -- for others -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Vsis(Body):
    """A text for a VSI-S server, such as "start"."""

    type = "DifxVsis"
    vsis: str = text("vsis")


BODIES: dict[str, type[Body]] = {
    kind.type: kind
    for kind in (
        Load, Alert, Status, Info, Datastream, Transient, Diagnostic, Command, Parameter, Start, Stop,
        FileTransfer, FileOperation, Vex2DifxRun, MachinesDefinition, GetDirectory, Mark5Control, Mark5Copy,
        Mark5Status, Mark5Version, Mark6Status, Mark6SlotStatus, Mark6Activity, DriveStats, Smart, Vsis,
    )
}  # fmt: skip
"""By the type in the header. The deprecated Mark5ConditionMessage is read as Mark5DriveStatsMessage."""
BODIES["Mark5ConditionMessage"] = DriveStats
