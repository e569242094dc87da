"""DiFX's `DiFXControl`: a client of the guiServer. A script of it runs with the import changed.

from mpiframe.compat import DiFXControl
difx = DiFXControl.Client()
difx.connect("headnode", 50200)      # a guiServer, or `mpiframe difx serve`

After `DiFXControl.mpi_mode_on(client)` connections go to the DiFX plugin of a server instead. Written from
the documentation and the packets. What differs from the original: time-outs call back and begin anew with
each packet, empty files come at once, nothing is printed but what one asks for, the thread that
listens does not keep a script from ending, `close` waits until the server has taken what it was asked for,
or 5 s. Content that is no UTF-8 is kept, as surrogates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mpiframe.compat._difx_files import FileMethods
from mpiframe.compat._difx_link import mpi_mode_off, mpi_mode_on
from mpiframe.compat._difx_packets import MonitorThread
from mpiframe.compat._difx_xml import (
    DifxAlertMessage,
    DifxCommandMessage,
    DifxDiagnosticMessage,
    DifxFileOperation,
    DifxFileTransfer,
    DifxGetDirectory,
    DifxInfoMessage,
    DifxLoadMessage,
    DifxMachinesDefinition,
    DifxMark5Copy,
    DifxMk5Control,
    DifxParameter,
    DifxSmartMessage,
    DifxStart,
    DifxStatusMessage,
    DifxStop,
    DifxTransientMessage,
    DifxVex2DifxRun,
    Mark5DriveStatsMessage,
    Mark5StatusMessage,
    Mark5VersionMessage,
    XMLMessage,
    parseXML,
)
from mpiframe.plugins.difx.protocol import write_int

__all__ = [
    "Client", "DifxAlertMessage", "DifxCommandMessage", "DifxDiagnosticMessage", "DifxFileOperation",
    "DifxFileTransfer", "DifxGetDirectory", "DifxInfoMessage", "DifxLoadMessage", "DifxMachinesDefinition",
    "DifxMark5Copy", "DifxMk5Control", "DifxParameter", "DifxSmartMessage", "DifxStart", "DifxStatusMessage",
    "DifxStop", "DifxTransientMessage", "DifxVex2DifxRun", "Mark5DriveStatsMessage", "Mark5StatusMessage",
    "Mark5VersionMessage", "MonitorThread", "XMLMessage", "mpi_mode_off", "mpi_mode_on", "parseXML",
]  # fmt: skip

_TYPES = (
    ("DifxLoadMessage", "LOAD"), ("DifxAlertMessage", "ALERT"), ("Mark5StatusMessage", "MARK5STATUS"),
    ("DifxStatusMessage", "STATUS"), ("DifxInfoMessage", "INFO"), ("DifxDatastreamMessage", ""),
    ("DifxCommand", "COMMAND"), ("DifxParameter", ""), ("DifxStart", ""), ("DifxStop", "STOP"),
    ("Mark5VersionMessage", ""), ("Mark5ConditionMessage", ""), ("DifxTransientMessage", ""),
    ("DifxSmartMessage", "SMART"), ("Mark5DriveStatsMessage", ""), ("DifxDiagnosticMessage", ""),
    ("DifxFileTransfer", "FILETRANSFER"), ("DifxFileOperation", "FILEOPERATION"),
    ("DifxVex2DifxRun", "VEX2DIFXRUN"), ("DifxMachinesDefinition", "MACHINESDEFINITION"),
    ("DifxGetDirectory", "GETDIRECTORY"), ("DifxMk5Control", "MK5CONTROL"), ("DifxMark5Copy", "MARK5COPY"),
)  # fmt: skip
"""The types of messages in DiFX's order, from 1 on, with their names for a selection; "" has none."""


class Client(FileMethods):
    """A connection to a guiServer, with the original's names. Errors are printed, or called back."""

    def relayPackets(self, on: bool = True) -> None:
        """Relay the messages of DiFX to us, or do not."""
        self.sendPacket(self.RELAY_PACKET, write_int(1 if on else 0))

    def messageSelection(self, types: Sequence[Any] | None = None) -> None:
        """Relay messages of these types only: names, or their numbers; None takes all."""
        if types is None:
            self.sendPacket(self.MESSAGE_SELECTION_PACKET, "ALL_MESSAGES")
            return
        names = dict(_TYPES) | {str(n): name for n, (_, name) in enumerate(_TYPES, 1)}
        chosen = [f"{names[str(one)]}_MESSAGES\n" for one in types if names.get(str(one))]
        self.sendPacket(self.MESSAGE_SELECTION_PACKET, "SELECTED_MESSAGES\n" + "".join(chosen))

    def versionRequest(self) -> None:
        """Ask for versions and environment, which come into our attributes."""
        self.channelResponse = False
        self.sendPacket(self.GUISERVER_VERSION)

    def version(self, preference: str | None = None) -> None:
        """Choose a version of DiFX, if the server has it: DIFX-DEVEL by default."""
        self.versionRequest()
        if not self._waitFor(lambda: self.channelResponse):
            print("SERVER DID NOT RESPOND!")
            self.socketOK = False
            return
        wanted = preference or "DIFX-DEVEL"
        # The documentation writes DIFX_DEVEL for what is called DIFX-DEVEL.
        alike = [one for one in self.availableVersion if one.replace("_", "-") == wanted.replace("_", "-")]
        if wanted in self.availableVersion or len(alike) == 1:
            self.versionPreference = wanted if wanted in self.availableVersion else alike[0]
            self.setVersionRunFile(self.versionPreference)
        else:
            print(f'Version "{wanted}" is not available.')

    def setVersionRunFile(self, version: str) -> None:
        """The path of a version's script."""
        self._runFile = f"{self.difxBase}/bin/rungeneric.{version}"

    def runFile(self, path: str | None = None) -> str | None:
        """Set the path, or get it."""
        if path is not None:
            self._runFile = path
        return self._runFile

    def getenv(self, name: str) -> str | None:
        """A variable of the server's."""
        return self.serverEnvironment.get(name)
