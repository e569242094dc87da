"""The visibilities of a job: the binary files in its `.difx` folder, as numpy arrays.

A file is a row of records, each one spectrum of one baseline, frequency and polarisation product for
one integration: a header of 74 bytes and complex64 for each channel, in order of rising frequency. How
many channels there are stands in the `.input` file only. Both byte orders are read. Format: "Visibility
files" in DiFX's user guide; DIFX_MJD_SECONDS.sSOURCE.bBIN are the names.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal, get_args

import numpy as np
import numpy.typing as npt

from mpiframe.plugins.difx.formats.errors import FormatError
from mpiframe.plugins.difx.formats.input_file import Input

SYNC = 0xFF00FF00
VERSION = 1
HEADER = np.dtype(
    [
        ("sync", "<u4"),
        ("version", "<i4"),
        ("baseline", "<i4"),  # 256 * (first telescope + 1) + second telescope + 1
        ("mjd", "<i4"),
        ("seconds", "<f8"),  # of the day, the middle of the integration
        ("configuration", "<i4"),
        ("source", "<i4"),
        ("freq", "<i4"),
        ("polarisations", "S2"),
        ("bin", "<i4"),
        ("weight", "<f8"),
        ("uvw_m", "<f8", (3,)),
    ]
)
"""A record's header, with the units in the names; what `sync` and `version` are is checked."""

_NAME = re.compile(r"DIFX_(\d{5,})_(\d{6})\.s(\d{4})\.b(\d{4})", re.ASCII)

_ROWS = 1 << 16

Order = Literal["<", ">"]
"""The order of bytes, as numpy calls it."""

Headers = npt.NDArray[np.void]
Spectra = npt.NDArray[np.complex64]


def file_name(mjd: int, seconds: int, source: int = 0, pulsar_bin: int = 0) -> str:
    """The name of a file of visibilities that begin at this time."""
    return f"DIFX_{mjd:05d}_{seconds:06d}.s{source:04d}.b{pulsar_bin:04d}"


def files_in(folder: str | os.PathLike[str]) -> list[str]:
    """The paths of the files of visibilities in a `.difx` folder, in order of time. Raises OSError."""
    names = [name for name in os.listdir(folder) if _NAME.fullmatch(name)]
    return [os.path.join(folder, name) for name in sorted(names)]


def baseline_number(first: int, second: int) -> int:
    """The number of a baseline of two telescopes, by their indices from 0; equal: autocorrelations."""
    return 256 * (first + 1) + second + 1


def telescopes_of(baseline: int) -> tuple[int, int]:
    """The indices of the two telescopes of a baseline."""
    return baseline // 256 - 1, baseline % 256 - 1


# -- finding the records --------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """The records of a piece of a file: their headers, where each begins, and where the last one ends."""

    headers: Headers
    offsets: npt.NDArray[np.int64]
    end: int
    byte_order: Order | None


def find(
    data: Any, channels: Mapping[int, int], path: str = "", start: int = 0, byte_order: Order | None = None
) -> Found:
    """The whole records in `data`, the bytes of a file from `start` on; a part of one at the end is left.

    channels: how many there are, by the index of the frequency. Raises FormatError for what is no
    record; offsets and `end` count from the begin of `data`.
    """
    if len(data) < HEADER.itemsize:
        return Found(np.empty(0, HEADER), np.empty(0, np.int64), 0, byte_order)
    order = byte_order or _byte_order(bytes(data[:4]), path, start)
    look = _find_alike if len(set(channels.values())) == 1 else _find_any
    return look(data, channels, path, start, order)


def _find_alike(data: Any, channels: Mapping[int, int], path: str, start: int, order: Order) -> Found:
    """As `find`, for records that are all of one size."""
    size = HEADER.itemsize + 8 * next(iter(channels.values()))
    row = np.dtype([("header", HEADER.newbyteorder(order)), ("data", f"V{size - HEADER.itemsize}")])
    headers = np.frombuffer(data, row, len(data) // size)["header"]
    freqs = np.fromiter(channels, np.int64)
    well = (headers["sync"] == SYNC) & (headers["version"] == VERSION) & np.isin(headers["freq"], freqs)
    if not well.all():
        wrong = int(np.argmin(well))
        _check(headers[wrong], channels, path, start + wrong * size)
    offsets = size * np.arange(len(headers), dtype=np.int64)
    rest = len(data) - len(headers) * size
    if rest >= HEADER.itemsize:  # what is unfinished has to be a record too
        last = np.frombuffer(data, HEADER.newbyteorder(order), 1, len(data) - rest)[0]
        _check(last, channels, path, start + len(data) - rest)
    return Found(headers.astype(HEADER), offsets, len(data) - rest, order)


def _find_any(data: Any, channels: Mapping[int, int], path: str, start: int, order: Order) -> Found:
    """As `find`, for records of several sizes: from one to the next."""
    view = memoryview(data)
    unpack = struct.Struct(f"{order}Ii24xi").unpack_from  # sync, version and frequency
    sizes = {freq: HEADER.itemsize + 8 * number for freq, number in channels.items() if number > 0}
    offsets: list[int] = []
    at, last = 0, len(view) - HEADER.itemsize
    while at <= last:
        sync, version, freq = unpack(view, at)
        size = sizes.get(freq, 0)
        if sync != SYNC or version != VERSION or not size:
            header = np.frombuffer(data, HEADER.newbyteorder(order), 1, at)[0]
            _check(header, channels, path, start + at)
        if at + size > len(view):
            break
        offsets.append(at)
        at += size
    places = np.array(offsets, dtype=np.int64)
    whole = np.frombuffer(data, np.uint8)
    headers = np.empty(len(places), HEADER)
    for first in range(0, len(places), _ROWS):  # an index for each byte takes room
        some = places[first : first + _ROWS]
        rows = whole[some[:, None] + np.arange(HEADER.itemsize)]
        headers[first : first + _ROWS] = rows.reshape(-1).view(HEADER.newbyteorder(order))
    return Found(headers, places, at, order)


def _byte_order(sync: bytes, path: str, offset: int) -> Order:
    order: Order
    for order in get_args(Order):
        if sync == np.array(SYNC, f"{order}u4").tobytes():
            return order
    if sync.isascii() and sync.decode().isprintable():
        raise FormatError(f"expected a binary record at byte {offset}, found text (a file of DiFX 1?)", path)
    raise FormatError(f"expected the sync word ff00ff00 at byte {offset}, found {sync.hex()}", path)


def _check(header: Any, channels: Mapping[int, int], path: str, offset: int) -> None:
    """Say what is wrong with a header."""
    if header["sync"] != SYNC:
        raise FormatError(
            f"expected the sync word ff00ff00 at byte {offset}, found {header['sync']:08x}", path
        )
    if header["version"] != VERSION:
        raise FormatError(f"expected version 1 of a record at byte {offset}, found {header['version']}", path)
    if channels.get(int(header["freq"]), 0) < 1:
        raise FormatError(
            f"the record at byte {offset} is of frequency {header['freq']}, which the job does not have", path
        )


# -- reading --------------------------------------------------------------------------------------


class Selection:
    """Some records of a job, in the order of the files. All arrays have a row for each."""

    def __init__(self, source: Visibilities, rows: npt.NDArray[np.int64]) -> None:
        self._source = source
        self.rows = rows
        self.headers: Headers = source.headers[rows]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def mjd(self) -> npt.NDArray[np.float64]:
        """The middle of each integration, MJD (UTC)."""
        return np.asarray(self.headers["mjd"] + self.headers["seconds"] / 86400.0, dtype=np.float64)

    @property
    def weights(self) -> npt.NDArray[np.float64]:
        """The share of good data."""
        return np.asarray(self.headers["weight"], dtype=np.float64)

    @property
    def uvw_m(self) -> npt.NDArray[np.float64]:
        """The baseline in metres, three columns."""
        return np.asarray(self.headers["uvw_m"], dtype=np.float64)

    @property
    def data(self) -> Spectra:
        """The spectra, a column for each channel; a copy. Raises FormatError if their lengths differ."""
        return self._source.spectra(self.rows)


class Visibilities:
    """The visibilities in one or more files, which are mapped into memory.

    They are those that are there when this is made; `Follower` has those of a running job. A file that
    is cut short while it is mapped ends the process, as with any mapped file.

    headers: an array of HEADER, one for each record. unfinished_bytes: what there is, at the ends of
    the files, of records that were not yet written in full.
    """

    def __init__(
        self, paths: Iterable[str | os.PathLike[str]], channels: Mapping[int, int], job: Input | None = None
    ) -> None:
        """Read the headers. Raises FormatError and OSError; `channels` as `Input.channel_counts` gives."""
        self.paths = [os.fspath(path) for path in paths]
        self.channels = dict(channels)
        self.job = job
        self.unfinished_bytes = 0
        self._maps: list[npt.NDArray[np.uint8]] = []
        self._orders: list[Order] = []
        pieces, offsets, files = [np.empty(0, HEADER)], [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for index, path in enumerate(self.paths):
            size = os.path.getsize(path)
            # Nothing cannot be mapped.
            data = np.memmap(path, np.uint8, "r") if size else np.empty(0, np.uint8)
            found = find(data, self.channels, path)
            self.unfinished_bytes += len(data) - found.end
            self._maps.append(data)
            self._orders.append(found.byte_order or "<")
            pieces.append(found.headers)
            offsets.append(found.offsets)
            files.append(np.full(len(found.offsets), index))
        self.headers: Headers = np.concatenate(pieces)
        self._offsets = np.concatenate(offsets)
        self._files = np.concatenate(files)

    @classmethod
    def of_job(cls, path: str | os.PathLike[str]) -> Visibilities:
        """Those of a job, by its `.input` file, its `.difx` folder, or what both names begin with.

        Raises FormatError and OSError. A folder beside the `.input` file goes before the one that the
        file names, which may be on another machine.
        """
        job = Input.read(input_path(path))
        return cls(files_in(output_folder(path, job)), job.channel_counts(), job)

    def __len__(self) -> int:
        return len(self.headers)

    def baselines(self) -> list[int]:
        """The numbers of the baselines that there are."""
        return [int(one) for one in np.unique(self.headers["baseline"])]

    def baseline_name(self, baseline: int) -> str:
        """A baseline as FD-OV, or by indices where the job is not known."""
        names = [str(index) for index in telescopes_of(baseline)]
        if self.job is not None:
            table = self.job.telescopes
            names = [table[i].name if 0 <= i < len(table) else str(i) for i in telescopes_of(baseline)]
        return "-".join(names)

    def find_baseline(self, name: str) -> int:
        """The number of a baseline as `baseline_name` gives it. Raises KeyError, which names them all."""
        known = {self.baseline_name(one).upper(): one for one in self.baselines()}
        if name.upper() not in known:
            raise KeyError(f"there is no baseline {name!r}, only {', '.join(known)}")
        return known[name.upper()]

    def select(
        self,
        baseline: int | str | tuple[int, int] | None = None,
        freq: int | None = None,
        polarisations: str | None = None,
        *,
        source: int | None = None,
        pulsar_bin: int | None = None,
        configuration: int | None = None,
        since_mjd: float | None = None,
        until_mjd: float | None = None,
    ) -> Selection:
        """The records that are all of this; None: whatever it is.

        baseline: its number, its name as "FD-OV", or the indices of two telescopes. Raises KeyError for
        a name that there is not.
        """
        if isinstance(baseline, str):
            baseline = self.find_baseline(baseline)
        elif isinstance(baseline, tuple):
            baseline = baseline_number(*baseline)
        wanted = {
            "baseline": baseline,
            "freq": freq,
            "polarisations": None if polarisations is None else polarisations.encode(),
            "source": source,
            "bin": pulsar_bin,
            "configuration": configuration,
        }
        chosen = np.ones(len(self.headers), dtype=bool)
        for name, value in wanted.items():
            if value is not None:
                chosen &= self.headers[name] == value
        days = self.headers["mjd"] + self.headers["seconds"] / 86400.0
        if since_mjd is not None:
            chosen &= days >= since_mjd
        if until_mjd is not None:
            chosen &= days < until_mjd
        return Selection(self, np.flatnonzero(chosen))

    def spectra(self, rows: npt.ArrayLike) -> Spectra:
        """The spectra of these records, a copy. Raises FormatError if their lengths differ."""
        chosen = np.asarray(rows, dtype=np.int64)
        lengths = {self.channels[int(freq)] for freq in np.unique(self.headers["freq"][chosen])}
        if len(lengths) > 1:
            raise FormatError(f"these spectra have {sorted(lengths)} channels: choose one frequency")
        number = lengths.pop() if lengths else 0
        out = np.empty((len(chosen), number), np.complex64)
        for index, row in enumerate(chosen):
            file = self._files[row]
            dtype = np.dtype(np.complex64).newbyteorder(self._orders[file])
            out[index] = np.frombuffer(
                self._maps[file], dtype, number, int(self._offsets[row]) + HEADER.itemsize
            )
        return out

    def __iter__(self) -> Iterator[tuple[np.void, Spectra]]:
        """Each header with its spectrum."""
        for row in range(len(self)):
            yield self.headers[row], self.spectra([row])[0]


def input_path(job: str | os.PathLike[str]) -> str:
    """The `.input` file of a job: of any file of it, its `.difx` folder, or what their names begin with."""
    path = os.fspath(job).rstrip("/")
    stem, suffix = os.path.splitext(path)
    known = (".input", ".calc", ".im", ".difx", ".flag", ".machines", ".threads", ".difxlog")
    return (stem if suffix in known else path) + ".input"


def output_folder(job: str | os.PathLike[str], read: Input) -> str:
    """The `.difx` folder of a job: beside its `.input` file, or where that says, if either is there.

    Before the job has begun it is where the file says, unless there is no such place on this machine.
    """
    stem = os.path.splitext(input_path(job))[0]
    beside = f"{stem}.difx"
    named = os.path.join(os.path.dirname(stem), read.output_path).rstrip("/")
    if os.path.isdir(beside) or not os.path.isdir(os.path.dirname(named) or "."):
        return beside
    return named


# -- writing --------------------------------------------------------------------------------------


def make_headers(number: int) -> Headers:
    """Headers to be filled in: `sync` and `version` are set, the weights 1, all else 0."""
    headers = np.zeros(number, HEADER)
    headers["sync"] = SYNC
    headers["version"] = VERSION
    headers["weight"] = 1.0
    return headers


def write_records(
    file: BinaryIO, headers: Headers, spectra: Sequence[npt.ArrayLike] | npt.NDArray[Any]
) -> None:
    """Append records to an open file, each header with its spectrum.

    Raises FormatError, before anything is written, where the numbers of the two differ.
    """
    if len(headers) != len(spectra):
        raise FormatError(f"{len(headers)} headers cannot go with {len(spectra)} spectra")
    rows = [np.asarray(spectrum, dtype="<c8") for spectrum in spectra]
    if any(row.ndim != 1 or not len(row) for row in rows):
        raise FormatError("a spectrum is one row of channels")
    checked = np.asarray(headers, HEADER)
    if np.any(checked["sync"] != SYNC) or np.any(checked["version"] != VERSION):
        raise FormatError("headers need the sync word and version 1: begin with make_headers")
    file.write(b"".join(checked[i].tobytes() + row.tobytes() for i, row in enumerate(rows)))
