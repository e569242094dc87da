"""The monitor of DiFXJobControl: products of a job, and the spectra of those that one asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from mpiframe.compat._difx_packets import Frames, bytes_of, text_of
from mpiframe.compat.DiFXControl import Client
from mpiframe.plugins.difx import gateway_monitor as ids
from mpiframe.plugins.difx.protocol import read_double, read_int, write_int

_HEAD_BYTES, _LAG_HEAD_BYTES = 16, 20
_NUMBER_SIGNS = 14
_KINDS = {
    ids.AMPLITUDE: "amplitude",
    ids.PHASE: "phase",
    ids.LAG: "lag",
    ids.MEAN_AMPLITUDE: "meanAmplitude",
    ids.MEAN_PHASE: "meanPhase",
    ids.MEAN_LAG: "meanLag",
}


class MonitorMethods(Client):
    """Spectra while a job runs. Data are attributes, as `lag` and `lagDelay`, set before a callback."""

    _inputFile: str | None

    def _monitorBegin(self) -> None:
        self._monitorChannel: int | None = None
        self._monitorListed = False
        self._monitorHeard = 0
        self._monitorScans: list[list[Any]] = []
        self._monitorCallbacks: dict[str, Callable[[], object] | None] = {}
        self.jobName: str | None = None
        self.obsCode: str | None = None
        for name in _KINDS.values():
            setattr(self, name, None)
            known = ["IProduct", "TimeStamp", "IntegrationTime"]
            known += ["HalfSize", "MaxChannel", "Delay", "Snr"] if "ag" in name[-2:] else ["NChannels"]
            for one in known:
                setattr(self, name + one, None)

    def startMonitor(self) -> None:
        """Begin to monitor the job whose .input file is set."""
        frames = Frames()

        def take(item: bytes) -> None:
            for number, data in frames.feed(item):
                self._monitorHeard += 1
                self._monitorPacket(number, data)

        self._monitorListed, self._monitorScans = False, []
        self._monitorChannel = self.newChannel(take)
        self.sendPacket(self.START_DIFX_MONITOR, write_int(self._monitorChannel))
        self.sendChannelPacket(self._monitorChannel, ids.INPUT_PATH, bytes_of(self._inputFile or ""))

    def stopMonitor(self) -> None:
        """Monitor no more."""
        if self._monitorChannel is not None:
            self.sendChannelPacket(self._monitorChannel, ids.CLOSE)
            self.closeChannel(self._monitorChannel)
            self._monitorChannel = None

    def fftSize(self, size: int) -> None:
        """How many points lags are made of."""
        if self._monitorChannel is not None:
            self.sendChannelPacket(self._monitorChannel, ids.FFT_SIZE, write_int(size))

    def getMonitorProducts(self) -> list[tuple[Any, ...]]:
        """For each scan (id, start, end, source, ra, dec, number of baselines, baselines, autocorrelations).

        A baseline is (telescope, telescope, number of frequencies, products), a product (number, MHz, phase
        centre, pulsar bin, polarisation, offset, channels), an autocorrelation (number, telescope, MHz,
        offset, channels).
        """
        self._waitFor(lambda: self._monitorListed, lambda: self._monitorHeard)
        return [
            (*scan[:7], [(one[0], one[1], one[2], list(one[3])) for one in scan[7]], list(scan[8]))
            for scan in self._monitorScans
        ]

    def productByIndex(self) -> dict[int, tuple[Any, ...]]:
        """Products by number: (number, scan, start, end, source, ra, dec, telescope, telescope, MHz, centre,
        pulsar bin, polarisation, offset, channels).
        """
        found: dict[int, tuple[Any, ...]] = {}
        for scan in self.getMonitorProducts():
            for first, second, _, products in scan[7]:
                for number, *rest in products:
                    found.setdefault(number, (number, *scan[:6], first, second, *rest))
            for number, telescope, mhz, offset, channels in scan[8]:
                made = (number, *scan[:6], telescope, telescope, mhz, 0, 0, None, offset, channels)
                found.setdefault(number, made)
        return found

    def requestProducts(self, products: Iterable[int]) -> None:
        """Get the data of these products from now on."""
        if self._monitorChannel is None:
            return
        known = self.productByIndex()
        self.sendChannelPacket(self._monitorChannel, ids.REQUESTS)
        for number in products:
            offset, channels = known[number][13:15] if number in known else (0, 0)
            data = write_int(number) + write_int(offset) + write_int(channels)
            self.sendChannelPacket(self._monitorChannel, ids.REQUEST, data)
        self.sendChannelPacket(self._monitorChannel, ids.END_REQUESTS)

    def monitorDataCallbacks(
        self,
        amplitude: Callable[[], object] | None = None,
        phase: Callable[[], object] | None = None,
        lag: Callable[[], object] | None = None,
        meanAmplitude: Callable[[], object] | None = None,
        meanPhase: Callable[[], object] | None = None,
        meanLag: Callable[[], object] | None = None,
    ) -> None:
        """callback(): new data of its kind are there."""
        given = (amplitude, phase, lag, meanAmplitude, meanPhase, meanLag)
        self._monitorCallbacks = dict(zip(_KINDS.values(), given, strict=True))

    # -- packets --

    def _monitorPacket(self, number: int, data: bytes) -> None:
        if number in _KINDS:
            self._monitorData(_KINDS[number], data)
        elif number == ids.END_PRODUCTS:
            self._monitorListed = True
        elif number in (ids.MESSAGE, ids.WARNING, ids.ERROR):
            kind = {ids.MESSAGE: self.message, ids.WARNING: self.warning, ids.ERROR: self.error}[number]
            kind(text_of(data))
        else:
            self._monitorListing(number, data)

    def _monitorListing(self, number: int, data: bytes) -> None:
        scans = self._monitorScans
        if number == ids.PRODUCTS:
            scans.clear()
        elif number == ids.JOB:
            self.jobName = text_of(data)
        elif number == ids.OBSERVATION:
            self.obsCode = text_of(data)
        elif number == ids.SCAN:
            scans.append([None, None, None, None, None, None, 0, [], []])
            self._monitorAt: dict[str, Any] = {"centre": 0, "bin": 0}
        if not scans:
            return
        scan = scans[-1]
        texts = (
            ids.SCAN_NAME,
            ids.SCAN_START,
            ids.SCAN_END,
            ids.SOURCE,
            ids.RIGHT_ASCENSION,
            ids.DECLINATION,
        )
        if number in texts:
            scan[texts.index(number)] = text_of(data)
        elif number == ids.BASELINES:
            scan[6] = read_int(data)
        elif number == ids.BASELINE:
            scan[7].append([None, None, 0, []])
        elif number == ids.AUTOCORRELATION:
            self._monitorAt["telescope"] = text_of(data)
        elif number == ids.FREQUENCY:
            self._monitorAt["mhz"] = read_double(data)
        elif number == ids.CENTRE and data:
            self._monitorAt["centre"] = read_int(data)
        elif number == ids.BIN and data:
            self._monitorAt["bin"] = read_int(data)
        elif number == ids.POLARISATION:
            self._monitorAt["polarisation"] = text_of(data)
        elif number == ids.PRODUCT:
            product, offset, channels = (read_int(data, at) for at in (0, 4, 8))
            at = self._monitorAt
            if "telescope" in at:
                scan[8].append((product, at["telescope"], at["mhz"], offset, channels))
            elif scan[7]:
                one = (product, at["mhz"], at["centre"], at["bin"], at["polarisation"], offset, channels)
                scan[7][-1][3].append(one)
        elif scan[7]:
            if number == ids.TELESCOPE_1:
                scan[7][-1][0] = text_of(data)
            elif number == ids.TELESCOPE_2:
                scan[7][-1][1] = text_of(data)
            elif number == ids.FREQUENCIES:
                scan[7][-1][2] = read_int(data)

    def _monitorData(self, name: str, data: bytes) -> None:
        is_lag = name in ("lag", "meanLag")
        start = _LAG_HEAD_BYTES if is_lag else _HEAD_BYTES
        heads = [read_int(data, at) for at in range(0, start, 4)]
        text = data[start:].decode("latin-1")
        numbers = [float(text[at : at + _NUMBER_SIGNS]) for at in range(0, len(text), _NUMBER_SIGNS)]
        setattr(self, f"{name}IProduct", heads[0])
        setattr(self, f"{name}HalfSize" if is_lag else f"{name}NChannels", heads[1])
        setattr(self, f"{name}TimeStamp", heads[2])
        setattr(self, f"{name}IntegrationTime", heads[3])
        if is_lag:
            setattr(self, f"{name}MaxChannel", heads[4])
            setattr(self, f"{name}Delay", numbers[0])
            setattr(self, f"{name}Snr", numbers[1])
            numbers = numbers[2:]
        setattr(self, name, numbers)
        callback = self._monitorCallbacks.get(name)
        if callback is not None:
            callback()
