"""Programs that the gateway runs: without a shell, in a process group of their own, their lines as they come."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Mapping, Sequence

Lines = Callable[[str], object]
"""Called with each line, without its end."""

_READ_BYTES = 1 << 16
_LONGEST_LINE = 8192
_GRACE_SECONDS = 2.0


class Program:
    """A program that runs. `wait` gives its status; both streams have ended by then, or were let go."""

    def __init__(self, process: asyncio.subprocess.Process, readers: list[asyncio.Task[None]]) -> None:
        self._process = process
        self._readers = readers

    @classmethod
    async def begin(
        cls,
        argv: Sequence[str],
        *,
        folder: str,
        environment: Mapping[str, str],
        on_line: Lines,
        on_error_line: Lines,
    ) -> Program:
        """Start it. Raises OSError where there is no such program."""
        process = await asyncio.create_subprocess_exec(
            *argv,
            cwd=folder,
            env=dict(environment),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        loop = asyncio.get_running_loop()
        readers = [
            loop.create_task(_read_lines(process.stdout, on_line)),
            loop.create_task(_read_lines(process.stderr, on_error_line)),
        ]
        return cls(process, readers)

    async def wait(self) -> int:
        """Its exit status, negative for a signal."""
        status = await self._process.wait()
        # What it left behind may hold the streams open; that is not waited for.
        _, open_still = await asyncio.wait(self._readers, timeout=_GRACE_SECONDS)
        for reader in open_still:
            reader.cancel()
        return status

    def signal(self, number: int) -> None:
        """Send a signal to all of its group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    async def end(self, grace_seconds: float = _GRACE_SECONDS) -> None:
        """End it and all of its group: asked first, then by force."""
        self.signal(signal.SIGTERM)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._process.wait()), grace_seconds)
        self.signal(signal.SIGKILL)
        await self._process.wait()


async def _read_lines(stream: asyncio.StreamReader, on_line: Lines) -> None:
    rest = b""
    while piece := await stream.read(_READ_BYTES):
        *lines, rest = (rest + piece).split(b"\n")
        if len(rest) > _LONGEST_LINE:  # with no end in sight: what there is, is a line
            lines, rest = [*lines, rest], b""
        for line in lines:
            on_line(line.decode("utf-8", "replace").rstrip("\r"))
    if rest:
        on_line(rest.decode("utf-8", "replace"))


async def run(
    argv: Sequence[str],
    *,
    folder: str,
    environment: Mapping[str, str],
    on_line: Lines,
    on_error_line: Lines,
) -> int:
    """Run a program to its end; its exit status. Ends it if we are cancelled. Raises OSError."""
    program = await Program.begin(
        argv, folder=folder, environment=environment, on_line=on_line, on_error_line=on_error_line
    )
    try:
        return await program.wait()
    except asyncio.CancelledError:
        await program.end()
        raise
