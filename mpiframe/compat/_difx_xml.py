"""The classes of DiFXControl that hold DiFX's messages: texts, or None for what a message does not have."""

from __future__ import annotations

from typing import ClassVar

from mpiframe.plugins.difx.messages_xml import Element, MessageError, read_xml


class XMLMessage:
    """Any message: what is in its header. parseOK: whether the text was one at all."""

    fields: ClassVar[dict[str, str]] = {}  # attributes, and the elements that they are of

    def __init__(self, data: bytes | str) -> None:
        self.pdat = data
        self.parseOK = False
        self.header: Element | None = None
        self.body: Element | None = None
        self.fromNode: str | None = None
        self.mpiProcessId: str | None = None
        self.identifier: str | None = None
        self.typeStr: str | None = None
        self.seqNumber: str | None = None
        for name in self.fields:
            setattr(self, name, None)
        try:
            root = read_xml(data if isinstance(data, bytes) else data.encode("utf-8", "surrogateescape"))
        except MessageError:
            return
        self.header, self.body = root.child("header"), root.child("body")
        if self.header is None or self.body is None:
            return
        self.parseOK = True
        self.fromNode = _text(self.header, "from")
        self.mpiProcessId = _text(self.header, "mpiProcessId")
        self.identifier = _text(self.header, "identifier")
        self.typeStr = _text(self.header, "type")
        self.seqNumber = _text(self.body, "seqNumber")
        for name, tag in self.fields.items():
            setattr(self, name, _text(self.body, tag))
        self._take(self.body)

    def _take(self, body: Element) -> None:
        """What is more than texts."""


def _all(element: Element, tag: str) -> list[Element]:
    """Elements of this name, however deep."""
    found = []
    for one in element.children:
        if one.tag == tag:
            found.append(one)
        found += _all(one, tag)
    return found


def _text(element: Element, tag: str) -> str | None:
    found = _all(element, tag)
    return (found[0].text or None) if found else None


def _same(*names: str) -> dict[str, str]:
    return {name: name for name in names}


class DifxLoadMessage(XMLMessage):
    """A node's load."""

    fields = _same("cpuLoad", "totalMemory", "usedMemory", "netRXRate", "netTXRate", "nCore")


class Mark5StatusMessage(XMLMessage):
    """What a Mark 5 unit does."""

    fields: ClassVar[dict[str, str]] = {
        "inputFile": "input",
        **_same(
            "bankAVSN", "bankBVSN", "statusWord", "activeBank", "state", "scanNumber", "scanName", "position",
            "playRate",
        ),
    }  # fmt: skip


class DifxAlertMessage(XMLMessage):
    """What a program has to say."""

    fields: ClassVar[dict[str, str]] = {"inputFile": "input", **_same("alertMessage", "severity")}


class DifxStatusMessage(XMLMessage):
    """Where a job is; weights: (antenna, weight) texts."""

    fields: ClassVar[dict[str, str]] = {
        "inputFile": "input",
        **_same("state", "message", "visibilityMJD", "jobstartMJD", "jobstopMJD"),
    }

    def _take(self, body: Element) -> None:
        self.weights = [(one.attributes.get("ant"), one.attributes.get("wt")) for one in _all(body, "weight")]


class DifxInfoMessage(XMLMessage):
    """A text."""

    fields = _same("message")


class DifxCommandMessage(XMLMessage):
    """A command."""

    fields = _same("command")


class DifxParameter(XMLMessage):
    """A parameter; index: by the number in the element's name."""

    fields = _same("targetMpiId", "name", "value")

    def _take(self, body: Element) -> None:
        self.index = {
            int(number): one.text
            for holder in [body, *body.children]
            for one in holder.children
            if one.tag.startswith("index") and (number := one.tag[5:]).isdecimal()
        }


class DifxStart(XMLMessage):
    """A job is to start."""

    fields: ClassVar[dict[str, str]] = {
        "inputFile": "input",
        **_same("force", "difxVersion", "restartSeconds", "address", "port"),
    }

    def _take(self, body: Element) -> None:
        _take_nodes(self, body)
        self.USNO = _text(body, "function")


def _take_nodes(message: XMLMessage, body: Element) -> None:
    managers = [one.attributes.get("node") for one in _all(body, "manager")]
    named = {
        "manager": managers[0] if managers else None,
        "datastream": [one.attributes.get("nodes") for one in _all(body, "datastream")],
        "process": [
            (one.attributes.get("nodes"), one.attributes.get("threads")) for one in _all(body, "process")
        ],
    }
    for name, value in named.items():
        setattr(message, name, value)


class DifxStop(XMLMessage):
    """A job is to end."""

    fields: ClassVar[dict[str, str]] = {
        "inputFile": "input",
        **_same("mpiWrapper", "difxVersion", "difxProgram"),
    }


class DifxSmartMessage(XMLMessage):
    """What a disk says of itself; smarts: (id, value) texts."""

    fields = _same("mjd", "vsn", "slot")

    def _take(self, body: Element) -> None:
        self.smarts = [(one.attributes.get("id"), one.attributes.get("value")) for one in _all(body, "smart")]


class DifxDiagnosticMessage(XMLMessage):
    """What a process measures of itself."""

    fields = _same(
        "diagnosticType", "threadId", "numBufElements", "startBufElement", "activeBufElements", "microsec",
        "bytes", "bytespersec", "numSubintsLost",
    )  # fmt: skip


class DifxTransientMessage(XMLMessage):
    """Data to be kept."""

    fields = _same("jobId", "startMJD", "stopMJD", "priority", "destDir", "comment", "dm")


class Mark5VersionMessage(XMLMessage):
    """The versions of a Mark 5 unit."""

    fields: ClassVar[dict[str, str]] = {
        **_same("ApiVer", "ApiDate", "FirmVer", "MonVer", "XbarVer", "AtaVer", "UAtaVer", "DriverVer"),
        **_same("BoardType", "SerialNum", "PCBVer", "PCBType", "PCBSubType", "FPGAConfig", "FPGAConfigVer"),
        "NumChannels": "NumChannels",
        "daughterBoards": "DaughterBoard",
    }

    def _take(self, body: Element) -> None:
        boards = _all(body, "DaughterBoard")
        self.dbSerialNum = _text(boards[0], "SerialNum") if boards else None


class Mark5DriveStatsMessage(XMLMessage):
    """The statistics of a drive; bins: by number."""

    fields: ClassVar[dict[str, str]] = {
        **_same("serialNumber", "modelNumber", "size", "moduleVSN", "moduleSlot", "startMJD", "stopMJD"),
        "driveType": "type",
        "startByte": "startByte",
    }

    def _take(self, body: Element) -> None:
        self.bins = {n: found for n in range(8) if (found := _text(body, f"bin{n}")) is not None}


class DifxFileTransfer(XMLMessage):
    """A file is to be sent."""

    fields = _same("origin", "destination", "dataNode", "address", "direction", "port")


class DifxFileOperation(XMLMessage):
    """Something is to be done with a file."""

    fields = _same("path", "operation", "dataNode", "arg", "address", "port")


class DifxVex2DifxRun(XMLMessage):
    """vex2difx is to be run."""

    fields: ClassVar[dict[str, str]] = {
        **_same("user", "difxVersion", "passPath", "address", "port"),
        "headNode": "node",
        "v2dFile": "file",
        "calcifOnly": "calcOnly",
    }


class DifxMachinesDefinition(XMLMessage):
    """A job's machines."""

    fields: ClassVar[dict[str, str]] = {
        "inputFile": "input",
        **_same("difxVersion", "testProcessors", "machinesFile", "threadsFile", "address", "port"),
    }

    def _take(self, body: Element) -> None:
        _take_nodes(self, body)


class DifxGetDirectory(XMLMessage):
    """A module's directory is wanted."""

    fields = _same("difxVersion", "mark5", "vsn", "address", "port", "generateNew")


class DifxMk5Control(XMLMessage):
    """A command for a Mark 5 unit."""

    fields = _same("command", "targetNode", "address", "port")


class DifxMark5Copy(XMLMessage):
    """Scans are to be copied."""

    fields = _same("difxVersion", "mark5", "vsn", "scans", "destination", "address", "port")


_CLASSES: dict[str, type[XMLMessage] | None] = {
    one.__name__: one
    for one in (
        DifxLoadMessage, Mark5StatusMessage, DifxAlertMessage, DifxStatusMessage, DifxInfoMessage,
        DifxParameter, DifxStart, DifxStop, DifxSmartMessage, DifxDiagnosticMessage, DifxTransientMessage,
        Mark5VersionMessage,
        Mark5DriveStatsMessage, DifxFileTransfer, DifxFileOperation, DifxVex2DifxRun, DifxMachinesDefinition,
        DifxGetDirectory, DifxMk5Control, DifxMark5Copy,
    )
}  # fmt: skip
_CLASSES["DifxCommand"] = _CLASSES["DifxCommandMessage"] = DifxCommandMessage
_CLASSES["DifxDatastreamMessage"] = _CLASSES["Mark5ConditionMessage"] = None


def parseXML(data: bytes | str) -> XMLMessage | None:
    """The message as the class of its type, or as XMLMessage, whose `typeStr` is None for what is none.

    None for the two types that DiFX does not use any more.
    """
    message = XMLMessage(data)
    kind = _CLASSES.get(message.typeStr or "", XMLMessage)
    if kind is None:
        return None
    return message if kind is XMLMessage else kind(data)
