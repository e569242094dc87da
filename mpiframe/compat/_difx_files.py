"""Files of the server, and the states of its jobs: methods of DiFXControl's client."""

from __future__ import annotations

from mpiframe.compat._difx_connection import Connection
from mpiframe.compat._difx_packets import Counted, Frames, bytes_of, element, text_of
from mpiframe.plugins.difx.protocol import read_int, write_counted, write_int

_LAST_ERRORS = 4  # the highest sizes of a file are -1 to -4


class FileMethods(Connection):
    """What is asked of the server's files. Errors are None, or sizes of 2**32 less 1 to 4."""

    def fileOperation(
        self, channel: int, command: str, args: str | None, path: str, dataNode: str | None = None
    ) -> None:
        """Send a DifxFileOperation."""
        body = element("port", channel, "      ") + element("operation", command, "     ")
        if args is not None:
            body += element("arg", args, "     ")
        body += element("path", path, "     ")
        if dataNode is not None:
            body += element("dataNode", dataNode, "     ")
        self.sendCommandPacket("DifxFileOperation", body)

    def _change(self, command: str, path: str, args: str | None = None) -> None:
        channel = self.newChannel(None)
        self.fileOperation(channel, command, args, path)
        self.closeChannel(channel)

    def mkdir(self, path: str) -> None:
        """Make a folder, and those above it."""
        self._change("mkdir", path)

    def rmdir(self, path: str) -> None:
        """Remove an empty folder."""
        self._change("rmdir", path)

    def rm(self, path: str, args: str | None = None) -> None:
        """Remove a file; args: -r, -f."""
        self._change("rm", path, args)

    def mv(self, path: str, to: str) -> None:
        """Rename."""
        self._change("mv", path, to)

    def cp(self, path: str, to: str) -> None:
        """Copy."""
        self._change("cp", path, to)

    def touch(self, path: str) -> None:
        """Make an empty file, or its time new."""
        self._change("touch", path)

    def ls(self, path: str, args: str | None = None) -> list[str] | None:
        """The lines of `ls`; None for what is not there, and for an empty folder."""
        lines: list[str] = []
        stream = Counted(lambda item: lines.append(text_of(item).strip()))
        channel = self.newChannel(stream.feed)
        self.fileOperation(channel, "ls", args or "", path)
        self._waitFor(lambda: stream.ended, lambda: len(lines))
        self.closeChannel(channel)
        return lines or None

    def getFile(self, path: str, waitToFinish: bool = True) -> str | None:
        """The content of a file; None if it cannot be had, a part of it when no more comes.

        Without waiting: None, and the callbacks tell; `fileContent` has what came.
        """
        self.fileSize: int | None = None
        self.fileContent = b""
        state: dict[str, int] = {"ended": False}

        def take(item: bytes) -> None:
            if self.fileSize is None:
                self.fileSize = read_int(item) & 0xFFFFFFFF
                self.doIntervalCallback()
            else:
                pieces.append(item)
                state["got"] = state.get("got", 0) + len(item)
                self.fileContent = b"" if waitToFinish else self.fileContent + item
                self.doIntervalCallback()
            failed = self.fileSize > 0xFFFFFFFF - _LAST_ERRORS
            if failed or state.get("got", 0) >= self.fileSize:
                state["ended"] = True
                if not waitToFinish:
                    self.closeChannel(channel)
                self.doFinalCallback()

        pieces: list[bytes] = []
        channel = self.newChannel(take)
        body = element("origin", path) + element("direction", "from DiFX") + element("port", channel)
        self.sendCommandPacket("DifxFileTransfer", body)
        if not waitToFinish:
            return None
        self._waitFor(lambda: state["ended"], lambda: len(pieces))
        self.closeChannel(channel)
        if self.fileSize is not None and self.fileSize > 0xFFFFFFFF - _LAST_ERRORS:
            return None
        self.fileContent = b"".join(pieces)
        return text_of(self.fileContent)

    def sendFile(self, path: str, content: str | bytes, waitToFinish: bool = True) -> int | None:
        """Write a file; how many bytes the server has, 2**32 less 1 and so on for errors."""
        answer: list[int] = []

        def take(item: bytes) -> None:
            answer.append(read_int(item) & 0xFFFFFFFF)
            if not waitToFinish:
                self.closeChannel(channel)
            self.doFinalCallback()

        data = bytes_of(content)
        channel = self.newChannel(take)
        body = element("destination", path) + element("direction", "to DiFX") + element("port", channel)
        self.sendCommandPacket("DifxFileTransfer", body)
        self.sendChannelData(channel, write_int(len(data)))
        self.sendChannelData(channel, data)
        if not waitToFinish:
            return None
        self._waitFor(lambda: answer)
        self.closeChannel(channel)
        return answer[0] if answer else None

    # -- jobs --

    def jobStatus(
        self, path: str, shortStatus: bool = True, waitToFinish: bool = True
    ) -> tuple[str | None, list[tuple[str, tuple[str | None, str]]] | None]:
        """(the time, [(an .input file, (when, its state))]); (None, None) if no answer came."""
        found: list[tuple[str, tuple[str | None, str]]] = []
        moment: list[str] = []
        state: dict[str, int] = {"ended": False, "heard": 0}
        others = {105: "No .difxlog", 107: ".difxlog open error", 108: "No status in .difxlog"}
        frames = Frames()

        def take(item: bytes) -> None:
            for number, data in frames.feed(item):
                state["heard"] += 1
                text = text_of(data)
                if number == 110:
                    moment.append(text)
                elif number == 104:
                    found.append((text, (None, "Unknown")))
                elif number == 106 and found:
                    found[-1] = (found[-1][0], (text[:24], text[24:]))
                elif number in others and found:
                    found[-1] = (found[-1][0], (None, others[number]))
                elif number in (101, 109):
                    state["ended"] = True
                    self.doFinalCallback()

        channel = self.newChannel(take)
        self.sendPacket(
            self.GET_JOB_STATUS,
            write_int(1 if shortStatus else 0)
            + write_counted(bytes_of(path))
            + write_counted(self._ownAddress().encode())
            + write_int(channel),
        )
        if not waitToFinish:
            return None, None
        complete = self._waitFor(lambda: state["ended"], lambda: state["heard"])
        self.closeChannel(channel)
        return (moment[0] if moment else None, found) if complete else (None, None)
