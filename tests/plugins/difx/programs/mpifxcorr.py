"""A stand-in for mpifxcorr: `mpifxcorr [-r SECONDS] JOB.input`, one process a rank, under an mpirun.

It reads the .input file and multicasts alerts and states as mpifxcorr does; rank 0 writes visibilities that
are those of a point source with a delay, with noise, and nothing of any data. It makes no MPI call: its rank
is in its environment, and what MPI_Init does, waiting for all, is done by DifxInfoMessages. STAND_IN, or else
a file JOB.stand_in, says how it behaves:

    (nothing)   as a job that goes well
    slow        waits after the first integration until a DifxStop is heard; then ends as mpifxcorr does
    stuck       the same, but hears nothing, and ignores SIGTERM, SIGINT and SIGHUP, on all ranks
    crash       rank 0 says FATAL and ends with 3
    lost        rank 0 ends with 0, without having said that it is done
    noisy       goes well, and says a lot on stderr
    errors      goes well, with alerts of severity ERROR and SEVERE

STAND_IN_INTERFACE is where messages go, lo by default.
"""

import contextlib
import os
import queue
import signal
import socket
import sys

from mpiframe.plugins.difx.formats import Input
from mpiframe.plugins.difx.formats.visibilities import input_path
from mpiframe.plugins.difx.messages_bodies import Alert, Info, Status, Stop, Weight
from mpiframe.plugins.difx.messages_states import DifxState, Severity
from mpiframe.plugins.difx.multicast import Group, Listener, Sender

BEHAVIOURS = ("", "slow", "stuck", "crash", "lost", "noisy", "errors")
SECONDS = 60.0


class Correlator:
    def __init__(self, words: list[str]) -> None:
        self.rank = int(os.environ.get("OMPI_COMM_WORLD_RANK") or os.environ["PMI_RANK"])
        self.size = int(os.environ.get("OMPI_COMM_WORLD_SIZE") or os.environ["PMI_SIZE"])
        self.restart = float(words[words.index("-r") + 1]) if "-r" in words else 0.0
        self.path = next(word for word in words if word.endswith(".input"))
        self.name = os.path.basename(self.path).removesuffix(".input")
        self.behaviour = os.environ.get("STAND_IN", "")
        with (
            contextlib.suppress(FileNotFoundError),
            open(f"{self.path.removesuffix('.input')}.stand_in") as file,
        ):
            self.behaviour = self.behaviour or file.read()
        assert self.behaviour in BEHAVIOURS, f"STAND_IN is one of {', '.join(BEHAVIOURS)}"
        self.group = Group.find(os.environ.get("STAND_IN_INTERFACE", "lo"))
        self.sender = Sender(self.group, self.name, process=self.rank)
        self.heard: queue.Queue[str] = queue.Queue()
        self.met = False

    def say(self, text: str, severity: Severity = Severity.INFO) -> None:
        self.sender.send(Alert(message=text, severity=int(severity)))

    def run(self) -> int:
        self.say(f"MPI Process {self.rank} is running on host {socket.gethostname()}")
        self.say(f"MPI Process {self.rank} is about to process input file")
        Listener(self.group).subscribe(self.hear, [Info, Stop, Status], [self.name])
        if self.behaviour == "stuck":  # before any of them says so, or writes anything
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
        self.meet()
        job = Input.read(self.path)
        if self.size < len(job.datastreams) + 2:
            self.say(f"{self.size} processes are too few", Severity.FATAL)
            return 1
        return self.other() if self.rank else self.manager(job)

    def meet(self) -> None:
        """Wait until all ranks are there."""
        missing = set(range(1, self.size))
        while self.rank == 0 and missing:
            missing.discard(int(self.heard.get(timeout=SECONDS)))
        self.met = self.rank == 0
        if self.met:
            self.sender.send(Info("go"))
        while not self.met:
            self.sender.send(Info(str(self.rank)))  # again: the manager may not hear yet
            with contextlib.suppress(queue.Empty):
                self.met = self.heard.get(timeout=0.05) == "go"

    def hear(self, message: object) -> None:
        if isinstance(message.body, Info):
            text = message.body.message
            if (text == "go") == bool(self.rank) and not self.met:
                self.heard.put(text)
            elif self.met and not self.rank and text != "go":  # one that has not heard it
                self.sender.send(Info("go"))
        elif isinstance(message.body, Stop) and message.process == 0:
            self.heard.put("stop")
        elif isinstance(message.body, Status) and message.body.state is DifxState.TERMINATED:
            self.heard.put("terminated")

    def other(self) -> int:
        if self.behaviour == "stuck":
            while True:
                signal.pause()
        if self.behaviour == "slow":
            while self.heard.get(timeout=SECONDS) != "terminated":
                pass
        self.say(f"MPI ID {self.rank} says BYE!")
        return 0

    def manager(self, job: Input) -> int:
        start = job.start_mjd + job.start_seconds / 86400
        stop = start + job.seconds / 86400
        step = job.configurations[0].integration_seconds
        weights = tuple(Weight(index, 0.98) for index in range(len(job.telescopes)))

        def state(which: DifxState, done: float = 0.0, message: str = "") -> None:
            mjd = start + done / 86400 if done else 0.0
            span = (start, stop, weights) if done else ()  # mpifxcorr has them only with the state Running
            self.sender.send(Status(self.path, which, message, mjd, *span))

        state(DifxState.STARTING, message="Version 2.9")
        if self.behaviour == "noisy":
            for number in range(2000):
                print(f"[{number}] terrible things that mean nothing", file=sys.stderr)
        if self.behaviour == "crash":
            self.say("cannot allocate memory", Severity.FATAL)
            return 3
        if self.behaviour == "errors":
            self.say("Only found a tiny bit of data - will be shutting down gracefully!!!", Severity.SEVERE)
            self.say("something is missing", Severity.ERROR)
        folder = input_path(self.path).removesuffix(".input") + ".difx"
        os.makedirs(folder, exist_ok=self.restart > 0)
        state(DifxState.ENDING)  # that is when mpifxcorr says so
        for number in range(int(self.restart / step), round(job.seconds / step)):
            self.write(job, folder, number, step)
            state(DifxState.RUNNING, (number + 1) * step)
            if self.behaviour == "stuck":
                while True:
                    signal.pause()
            if self.behaviour == "slow":
                while self.heard.get(timeout=SECONDS) != "stop":
                    pass
                state(DifxState.TERMINATING, (number + 1) * step)
                state(DifxState.TERMINATED, (number + 1) * step)
                return 0
            if self.behaviour == "lost":
                return 0
        self.say("Total wallclock time was **0.1** seconds")
        state(DifxState.DONE)
        self.say(f"MPI ID {self.rank} says BYE!")
        return 0

    def write(self, job: Input, folder: str, number: int, step: float) -> None:
        import numpy as np  # by rank 0 only: it takes a while

        from mpiframe.plugins.difx.formats.visibilities import (
            baseline_number,
            file_name,
            make_headers,
            write_records,
        )

        random = np.random.default_rng(number)
        products = job.products()
        headers = make_headers(len(products))
        rows = []
        for header, product in zip(headers, products, strict=True):
            header["baseline"] = baseline_number(*product.telescopes)
            header["mjd"] = job.start_mjd
            header["seconds"] = job.start_seconds + (number + 0.5) * step
            header["freq"] = product.freq
            header["polarisations"] = product.polarisations.encode()
            header["weight"] = 0.98
            channels = job.channels(product.freq)
            delay = 0.0 if product.telescopes[0] == product.telescopes[1] else 0.05
            row = np.exp(2j * np.pi * delay * np.arange(channels))
            rows.append(row + 0.1 * (random.normal(size=channels) + 1j * random.normal(size=channels)))
        name = file_name(job.start_mjd, int(job.start_seconds))
        with open(os.path.join(folder, name), "ab") as file:
            write_records(file, headers, rows)


sys.exit(Correlator(sys.argv[1:]).run())
