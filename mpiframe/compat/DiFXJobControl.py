"""DiFX's `DiFXJobControl`: machines of a job, its start, its end, and its spectra while it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from xml.sax.saxutils import quoteattr

from mpiframe.compat._difx_attached import AttachedClient
from mpiframe.compat._difx_packets import Frames, element, text_of
from mpiframe.compat._difx_spectra import MonitorMethods
from mpiframe.compat._difx_steps import (
    MACHINE_STEPS,
    MACHINE_TEXTS,
    RUN_ENDS,
    RUN_FINAL,
    RUN_STEPS,
    RUN_TEXTS,
    SAID,
)  # fmt: skip
from mpiframe.compat.DiFXControl import Client as _Client


def _nodes(client: Client | JobRunner) -> str:
    """Of the machines, as elements."""
    parts = [f"\t\t<manager node={quoteattr(client._headNode or '')}/>\n"]
    sources = "".join(f"{one} " for one in client._dataSources)
    parts.append(f"\t\t<datastream nodes={quoteattr(sources)}/>\n")
    for node, threads in client._processors:
        parts.append(f"\t\t<process nodes={quoteattr(node)} threads={quoteattr(str(threads))}/>\n")
    return "".join(parts)


class Client(MonitorMethods, AttachedClient):
    """Controls jobs. With several of them at once, each is a `JobRunner` of `newJob`."""

    def __init__(self, client: _Client | None = None) -> None:
        super().__init__(client)
        self._inputFile: str | None = None
        self._headNode: str | None = None
        self._dataSources: list[str] = []
        self._processors: list[tuple[str, int]] = []
        self._testProcessors = False
        self._runWithMonitor = False
        self._machinesCallback: Callable[[int, Any], object] | None = None
        self._machinesExclusive = False
        self._lastJob: JobRunner | None = None
        self.machinesFileName: str | None = None
        self.threadsFileName: str | None = None
        self._monitorBegin()

    # -- what a job is --

    def inputFile(self, path: str | None = None) -> str | None:
        """Set the path of the .input file, or get it."""
        if path is not None:
            self._inputFile = path
        return self._inputFile

    def setHeadNode(self, node: str) -> None:
        """The host of the manager."""
        self._headNode = node

    def headNode(self, node: str | None = None) -> str | None:
        """The host of the manager; sets it, too."""
        if node is not None:
            self._headNode = node
        return self._headNode

    def clearDataSources(self) -> None:
        """Forget the hosts that send data."""
        self._dataSources = []

    def addDataSource(self, node: str) -> None:
        """One more host that sends data."""
        self._dataSources.append(node)

    def dataSources(self) -> list[str]:
        """The hosts that send data."""
        return self._dataSources

    def clearProcessors(self) -> None:
        """Forget the hosts that compute."""
        self._processors = []

    def addProcessor(self, node: str, threads: int) -> None:
        """One more host that computes, with so many threads."""
        self._processors.append((node, int(threads)))

    def processors(self) -> list[tuple[str, int]]:
        """The hosts that compute, with their threads."""
        return self._processors

    def testProcessors(self, test: bool) -> None:
        """Whether to test hosts when machines are defined."""
        self._testProcessors = bool(test)

    # -- machines --

    def getMachines(self) -> bool:
        """Get head node, data sources and processors from .machines and .threads; whether they are there."""
        job = (self._inputFile or "").removesuffix(".input")
        texts = [self.getFile(f"{job}.machines"), self.getFile(f"{job}.threads")]
        if not texts[0] or texts[1] is None:
            return False
        machines = [line.split()[0] for line in texts[0].splitlines() if line.strip()]
        counts = [int(line) for line in texts[1].splitlines()[1:] if line.strip().isdecimal()]
        if len(machines) <= len(counts):
            return False
        self._headNode = machines[0]
        self._dataSources = machines[1 : len(machines) - len(counts)]
        # The head node computes with one thread less than it was given.
        self._processors = [
            (node, threads + (node == self._headNode))
            for node, threads in zip(machines[len(machines) - len(counts) :], counts, strict=True)
        ]
        return True

    def setMachinesDefCallback(self, callback: Callable[[int, Any], object], exclusive: bool = False) -> None:
        """callback(id, data): each step; exclusive: and no messages of them."""
        self._machinesCallback = callback
        self._machinesExclusive = exclusive

    def machinesDefinition(
        self,
        inputFile: str,
        headNode: str,
        dataSources: list[str],
        processors: list[tuple[str, int]],
        waitToFinish: bool = True,
    ) -> None:
        """Set all of these, and `defineMachines`."""
        self._inputFile, self._headNode = inputFile, headNode
        self._dataSources, self._processors = list(dataSources), list(processors)
        self.defineMachines(waitToFinish)

    def defineMachines(self, waitToFinish: bool = True) -> None:
        """Write .machines and .threads at the server."""
        job = (self._inputFile or "").removesuffix(".input")
        machines, threads = f"{job}.machines", f"{job}.threads"
        state = {"ended": False, "heard": 0}
        frames = Frames()

        def take(item: bytes) -> None:
            for number, data in frames.feed(item):
                state["heard"] += 1
                text = text_of(data)
                if number == 111:
                    self.machinesFileName = text
                elif number == 110:
                    self.threadsFileName = text
                if self._machinesCallback is not None:
                    self._machinesCallback(number, text or None)
                if number in MACHINE_TEXTS and not (self._machinesCallback and self._machinesExclusive):
                    kind, form = MACHINE_TEXTS[number]
                    names = {"machines": self.machinesFileName, "threads": self.threadsFileName}
                    getattr(self, kind)(form.format(text, **names))
                if number in (100, 101):
                    state["ended"] = True
                    self.closeChannel(channel)
                    self.doFinalCallback()

        channel = self.newChannel(take)
        self.sendCommandPacket(
            "DifxMachinesDefinition",
            element("input", self._inputFile)
            + _nodes(self)
            + element("difxVersion", self.versionPreference)
            + element("testProcessors", "true" if self._testProcessors else "false")
            + element("machinesFile", machines)
            + element("threadsFile", threads)
            + element("port", channel),
        )
        if waitToFinish:
            self._waitFor(lambda: state["ended"], lambda: state["heard"])

    # -- jobs --

    def newJob(self) -> JobRunner:
        """A job with all that is set now."""
        self._lastJob = JobRunner(self)
        return self._lastJob

    def runWithMonitor(self, on: bool) -> None:
        """Whether jobs that are made from now on are run with the monitor."""
        self._runWithMonitor = bool(on)

    def start(self, waitToFinish: bool = True) -> JobRunner:
        """Make a job and start it."""
        job = self.newJob()
        job.start(waitToFinish)
        return job

    def stop(self, inputFile: str | None = None) -> None:
        """End a job: by its .input file, or the one that is set."""
        self.sendCommandPacket(
            "DifxStop",
            element("input", inputFile or self._inputFile) + element("difxVersion", self.versionPreference),
        )


class JobRunner:
    """One run of a job. jobComplete: whether it has ended."""

    def __init__(self, jobControl: Client) -> None:
        self._control = jobControl
        self._inputFile = jobControl._inputFile
        self._headNode = jobControl._headNode
        self._dataSources = list(jobControl._dataSources)
        self._processors = list(jobControl._processors)
        self._versionPreference = jobControl.versionPreference
        self._monitored = jobControl._runWithMonitor
        self._force = True
        self._restart = 0.0
        self._configOnly = False
        self._stopOnConfigFail = True
        self._startCallback: Callable[[int, Any], object] | None = None
        self._startExclusive = False
        self._channel: int | None = None
        self._final: int | None = None
        self.jobComplete = False

    def forceJobStart(self, force: bool) -> None:
        """Whether to delete the output of an earlier run; it is by default."""
        self._force = bool(force)

    def restartSeconds(self, seconds: float) -> None:
        """Begin so far into the job."""
        self._restart = float(seconds)

    def runWithMonitor(self, on: bool) -> None:
        """Run with the monitor."""
        self._monitored = bool(on)

    def configOnly(self, only: bool) -> None:
        """Check the configuration, and do no more."""
        self._configOnly = bool(only)

    def stopOnConfigFail(self, stop: bool) -> None:
        """Whether a bad configuration is the end; it is by default."""
        self._stopOnConfigFail = bool(stop)

    def setStartCallback(self, callback: Callable[[int, Any], object], exclusive: bool = False) -> None:
        """callback(id, data): each step; exclusive: and no messages of them."""
        self._startCallback = callback
        self._startExclusive = exclusive

    def finalMessage(self) -> int | None:
        """The step that says how it ended, so far."""
        return self._final

    def setFinalMessage(self, number: int) -> None:
        """Set it."""
        self._final = number

    def closeChannel(self) -> None:
        """Hear no more of it."""
        self._control.closeChannel(self._channel)

    def start(self, waitToFinish: bool = True) -> None:
        """Start it; wait until it has ended, or nothing was heard of it for `waitTime`."""
        heard = [0]
        frames = Frames()

        def take(item: bytes) -> None:
            for number, data in frames.feed(item):
                heard[0] += 1
                self._step(number, text_of(data) or None)

        self.jobComplete, self._final = False, None
        self._channel = self._control.newChannel(take)
        function = (
            "RUN_MONITOR" if self._monitored
            else "CONFIG_ONLY" if self._configOnly
            else "BAIL_ON_CONFIG_FAIL" if self._stopOnConfigFail
            else "USNO"
        )  # fmt: skip
        self._control.sendCommandPacket(
            "DifxStart",
            element("input", self._inputFile)
            + _nodes(self)
            + element("difxVersion", self._versionPreference)
            + element("force", int(self._force))
            + element("restartSeconds", self._restart)
            + element("function", function, "     ").rstrip("\n")
            + element("port", self._channel),
        )
        if waitToFinish:
            self._control._waitFor(lambda: self.jobComplete, lambda: heard[0])

    def _step(self, number: int, text: str | None) -> None:
        if number in RUN_FINAL or number == 128:
            self._final = number if number != 128 else self._final
        if self._startCallback is not None:
            self._startCallback(number, text)
        if not (self._startCallback and self._startExclusive):
            if number in SAID:
                getattr(self._control, SAID[number])(text)
            elif number in RUN_TEXTS:
                kind, form = RUN_TEXTS[number]
                getattr(self._control, kind)(form)
        if number in RUN_ENDS:
            self.jobComplete = True
            self._control.doFinalCallback()


Client.JobRunner = JobRunner  # type: ignore[attr-defined]
for _number, _name in enumerate(MACHINE_STEPS, 100):
    setattr(Client, f"MACHINE_DEF_{_name}", _number)
for _number, _name in enumerate(RUN_STEPS, 100):
    setattr(JobRunner, f"RUN_DIFX_{_name}", _number)
