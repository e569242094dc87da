"""The real-time monitor of the guiServer's protocol: a job's products, and their spectra as they appear.

The spectra are read from the job's own output as it grows; there is no second server behind this one.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mpiframe.errors import MpiframeError
from mpiframe.plugins.difx.formats import Calc, Input, Product
from mpiframe.plugins.difx.gateway_channels import Channel, receive_framed, send_framed
from mpiframe.plugins.difx.protocol import Id, framed_items, read_int, write_double, write_int

if TYPE_CHECKING:
    from mpiframe.plugins.difx.follow import Follower
    from mpiframe.plugins.difx.gateway_session import Session
    from mpiframe.plugins.difx.monitor import Monitor, Update

MESSAGE, WARNING, ERROR, INPUT_PATH, CLOSE = 100, 101, 102, 103, 104
BASELINES, FREQUENCIES, BASELINE, FREQUENCY, SCANS, SCAN = 105, 106, 107, 108, 109, 110
TELESCOPE_1, TELESCOPE_2, PRODUCTS, CENTRES, CENTRE = 111, 112, 113, 114, 115
BINS, BIN, POLARISATIONS, POLARISATION, PRODUCT, AUTOCORRELATION = 116, 117, 118, 119, 120, 121
REQUEST, REQUESTS, END_REQUESTS = 122, 123, 124
AMPLITUDE, PHASE, LAG, END_BLOCK, JOB, OBSERVATION = 126, 127, 128, 129, 130, 131
SCAN_NAME, SCAN_START, SCAN_END, SOURCE, RIGHT_ASCENSION, DECLINATION = 132, 133, 134, 135, 136, 137
FFT_SIZE, MEAN_AMPLITUDE, MEAN_PHASE, MEAN_LAG, END_PRODUCTS = 139, 140, 141, 142, 143

_LONGEST = 1 << 16
_MOST_REQUESTS = 10_000
_SECONDS_A_DAY = 86400.0


async def serve(session: Session, channel: Channel, _: object) -> None:
    """Do what the client asks for, until it closes the monitor or goes."""
    watching = _Watching(session, channel)
    held = bytearray()
    try:
        while True:
            number, data = await receive_framed(channel, held, _LONGEST)
            if number == CLOSE:
                return
            try:
                await watching.take(number, data)
            except (OSError, LookupError, ValueError, MpiframeError) as error:
                await send_framed(channel, ERROR, str(error).encode("utf-8", "replace"))
    finally:
        await asyncio.to_thread(watching.stop)


class _Watching:
    """One monitor: a follower of a job's output, in a thread."""

    def __init__(self, session: Session, channel: Channel) -> None:
        self._session = session
        self._channel = channel
        self._loop = asyncio.get_running_loop()
        self._follower: Follower | None = None
        self._monitor: Monitor | None = None
        self._thread: threading.Thread | None = None
        self._turn = threading.RLock()  # a client may go while its job is opened: that is stopped after it
        self._lock = threading.Lock()
        self._asked: list[int] | None = None

    async def take(self, number: int, data: bytes) -> None:
        """Carry out a packet of the client's."""
        if number == INPUT_PATH:
            path = data.decode("utf-8", "surrogateescape")
            job = await asyncio.to_thread(self._open, path)
            calc = await asyncio.to_thread(self._calc, f"{path.removesuffix('.input')}.calc")
            items = [part for one in listing(path, job, calc) for part in framed_items(*one)]
            await self._channel.items(*items)
        elif number == REQUESTS:
            self._asked = []
        elif number == REQUEST and self._asked is not None and len(self._asked) < _MOST_REQUESTS:
            self._asked.append(read_int(data))
        elif number == END_REQUESTS and self._asked is not None:
            asked, self._asked = self._asked, None
            await asyncio.to_thread(self._follow, asked)
        elif number != FFT_SIZE:  # lags are as many as the channels give
            raise ValueError(f"packet {number} has no place here")

    def _open(self, path: str) -> Input:
        self._session.gateway.files.size(path)  # raises outside of the roots
        from mpiframe.plugins.difx.follow import Follower
        from mpiframe.plugins.difx.monitor import Monitor

        with self._turn:
            self.stop()
            self._follower = Follower(path)
            self._monitor = Monitor(self._follower.job, [])
            return self._follower.job

    def _calc(self, path: str) -> Calc | None:
        """Without it there are no names of scans and sources."""
        try:
            return Calc.parse(self._session.gateway.files.read(path).decode("utf-8", "replace"), path)
        except FileNotFoundError:
            return None

    def _follow(self, asked: Sequence[int]) -> None:
        with self._turn:
            if self._monitor is None:
                raise ValueError("the path of an .input file comes before requests")
            with self._lock:
                self._monitor.request(asked)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="DiFX gateway monitor", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        assert self._follower is not None
        assert self._monitor is not None
        try:
            for batch in self._follower:
                with self._lock:
                    updates = self._monitor.take(batch)
                if updates:
                    self._loop.call_soon_threadsafe(self._tell, updates)
        except (OSError, MpiframeError) as error:
            text = str(error)
            self._loop.call_soon_threadsafe(lambda: self._session.say(Id.ERROR, f"monitor: {text}"))
        except RuntimeError:  # the loop has ended
            pass

    def _tell(self, updates: Sequence[Update]) -> None:
        for place, update in enumerate(updates):
            for number, data in update_packets(update):
                self._channel.offer(*framed_items(number, data))
            following = updates[place + 1] if place + 1 < len(updates) else None
            if following is None or (following.mjd, following.seconds) != (update.mjd, update.seconds):
                self._channel.offer(*framed_items(END_BLOCK))

    def stop(self) -> None:
        """End it; from any thread but its own."""
        with self._turn:
            if self._follower is not None:
                self._follower.stop()
            if self._thread is not None:
                self._thread.join()
            self._follower = self._thread = self._monitor = None


def update_packets(update: Update) -> list[tuple[int, bytes]]:
    """The six packets of one spectrum: amplitude, phase and lags, of the integration and of the mean."""
    moment = [int(update.seconds), math.ceil(update.integration_seconds)]

    def values(numbers: npt.ArrayLike) -> bytes:
        return "".join(f"{one:14.6e}" for one in np.nan_to_num(np.asarray(numbers))).encode()

    def head(*numbers: int) -> bytes:
        return b"".join(write_int(one) for one in numbers)

    channels = len(update.spectrum)
    made = []
    for kinds, amplitude, phase, lags in (
        ((AMPLITUDE, PHASE, LAG), update.amplitude, update.phase_deg, update.lags),
        (
            (MEAN_AMPLITUDE, MEAN_PHASE, MEAN_LAG),
            update.mean_amplitude,
            update.mean_phase_deg,
            update.mean_lags,
        ),
    ):
        made.append((kinds[0], head(update.id, channels, *moment) + values(amplitude)))
        made.append((kinds[1], head(update.id, channels, *moment) + values(phase)))
        half, highest = len(lags.amplitudes) // 2, int(np.argmax(np.nan_to_num(lags.amplitudes)))
        data = head(update.id, half, *moment, highest) + values([lags.delay_us, lags.snr])
        made.append((kinds[2], data + values(lags.amplitudes)))
    return made


def listing(path: str, job: Input, calc: Calc | None) -> list[tuple[int, bytes]]:
    """The products of a job, as packets: for each scan its baselines, and for each of them frequencies."""
    products = job.products()
    baselines: dict[tuple[int, int], list[tuple[int, Product]]] = {}
    for number, one in enumerate(products):
        baselines.setdefault(one.telescopes, []).append((number, one))
    crossed = {pair: found for pair, found in baselines.items() if pair[0] != pair[1]}
    scans = list(calc.scans) if calc is not None else []
    name = path.rsplit("/", 1)[-1].removesuffix(".input")
    made: list[tuple[int, bytes]] = [
        (PRODUCTS, b""),
        (SCANS, write_int(max(1, len(scans)))),
        (JOB, name.encode()),
        (OBSERVATION, (calc.obscode if calc is not None else "").encode()),
    ]
    for index in range(max(1, len(scans))):
        made.append((SCAN, write_int(index)))
        made += _scan_packets(calc, index) if calc is not None and scans else []
        made.append((BASELINES, write_int(len(crossed))))
        for place, ((first, second), found) in enumerate(crossed.items()):
            made.append((BASELINE, write_int(place)))
            made.append((TELESCOPE_1, job.telescopes[first].name.encode()))
            made.append((TELESCOPE_2, job.telescopes[second].name.encode()))
            freqs = list(dict.fromkeys(one.freq for _, one in found))
            made.append((FREQUENCIES, write_int(len(freqs))))
            for freq in freqs:
                inner = [(number, one) for number, one in found if one.freq == freq]
                made.append((FREQUENCY, write_double(job.freqs[freq].mhz)))
                made += [
                    (CENTRES, write_int(1)),
                    (CENTRE, write_int(0)),
                    (BINS, write_int(1)),
                    (BIN, write_int(0)),
                ]
                made.append((POLARISATIONS, write_int(len(inner))))
                for number, one in inner:
                    made.append((POLARISATION, one.polarisations.encode()))
                    made.append((PRODUCT, _product(number, job, one)))
        for (first, second), found in baselines.items():
            for number, one in found if first == second else ():
                made.append((AUTOCORRELATION, job.telescopes[first].name.encode()))
                made.append((FREQUENCY, write_double(job.freqs[one.freq].mhz)))
                made.append((PRODUCT, _product(number, job, one)))
    made.append((END_PRODUCTS, b""))
    return made


def _product(number: int, job: Input, one: Product) -> bytes:
    """Its number, where it stands among the products, its channels."""
    return write_int(number) + write_int(number) + write_int(job.channel_counts()[one.freq])


def _scan_packets(calc: Calc, index: int) -> list[tuple[int, bytes]]:
    scan = calc.scans[index]
    start = calc.job_start_mjd + (scan.start_seconds or 0.0) / _SECONDS_A_DAY
    stop = start + (scan.seconds or 0.0) / _SECONDS_A_DAY
    source, right_ascension, declination = scan.source_name or "", scan.ra_rad or 0.0, scan.dec_rad or 0.0
    if scan.pointing_source is not None and 0 <= scan.pointing_source < len(calc.sources):
        found = calc.sources[scan.pointing_source]
        source, right_ascension, declination = found.name, found.ra_rad, found.dec_rad
    return [
        (SCAN_NAME, (scan.name or str(index)).encode()),
        (SCAN_START, f"{start:.7f}".encode()),
        (SCAN_END, f"{stop:.7f}".encode()),
        (SOURCE, source.encode()),
        (RIGHT_ASCENSION, f"{right_ascension:.15f}".encode()),
        (DECLINATION, f"{declination:.15f}".encode()),
    ]
