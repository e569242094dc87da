"""DiFX's `DiFXvex2difx`: jobs are made of a .v2d file, and models of them by a calc program."""

from __future__ import annotations

from collections.abc import Callable

from mpiframe.compat._difx_attached import AttachedClient
from mpiframe.compat._difx_packets import Counted, element, text_of
from mpiframe.compat.DiFXControl import Client as _Client


class Client(AttachedClient):
    """Runs vex2difx and calc on the server. One instance may run them any number of times."""

    def __init__(self, client: _Client | None = None) -> None:
        super().__init__(client)
        self._passPath = ""
        self._fileName = ""
        self._calcOnly = False
        self._calcCommand = "calcif2"
        self._newFileCallback: Callable[[str], object] | None = None
        self._processCompleteCallback: Callable[[], object] | None = None

    def passPath(self, path: str) -> None:
        """The folder of the .v2d and the .vex file."""
        self._passPath = path

    def v2dFile(self, name: str) -> None:
        """The .v2d file, with or without its extension."""
        self._fileName = name

    def jobName(self, name: str) -> None:
        """The jobs whose calc is to be run alone; wildcards may be used."""
        self._fileName = name

    fileName = jobName

    def calcOnly(self, only: bool) -> None:
        """Run calc alone."""
        self._calcOnly = bool(only)

    def calcCommand(self, command: str) -> None:
        """The calc program: calcif2 by default."""
        self._calcCommand = command

    def newFileCallback(self, callback: Callable[[str], object] | None) -> None:
        """callback(path): a new .input or .im file."""
        self._newFileCallback = callback

    def processCompleteCallback(self, callback: Callable[[], object] | None) -> None:
        """callback(): all is done."""
        self._processCompleteCallback = callback

    def newFile(self, path: str) -> None:
        """A file was made."""
        if self._newFileCallback is not None:
            self._newFileCallback(path)

    def runVex2Difx(self, waitToFinish: bool = True) -> None:
        """Run vex2difx and calc; wait until they are done, or nothing came for `waitTime`."""
        heard = [0]

        def take(item: bytes) -> None:
            heard[0] += 1
            ended = stream.ended
            stream.feed(item)
            if stream.ended and not ended:
                self.closeChannel(channel)
                if self._processCompleteCallback is not None:
                    self._processCompleteCallback()
                self.doFinalCallback()

        stream = Counted(lambda path: self.newFile(text_of(path)))
        channel = self.newChannel(take)
        name = self._fileName
        if self._calcOnly:
            name = name.removesuffix(".calc")
        elif not name.endswith(".v2d"):
            name += ".v2d"
        self.sendCommandPacket(
            "DifxVex2DifxRun",
            element("difxVersion", self.versionPreference)
            + element("file", name)
            + element("passPath", self._passPath)
            + element("address", self._ownAddress())
            + element("port", channel)
            + element("calcCommand", self._calcCommand)
            + element("calcOnly", int(self._calcOnly)),
        )
        if waitToFinish:
            # Diagnostics are signs of life, too.
            self._waitFor(lambda: stream.ended, lambda: (heard[0], self.bytesReceived))
