"""The spectra of chosen products as a job runs: of each integration, and their mean so far."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from mpiframe.plugins.difx.follow import Batch
from mpiframe.plugins.difx.formats.input_file import Input, Product
from mpiframe.plugins.difx.formats.visibilities import baseline_number
from mpiframe.plugins.difx.spectra import Complexes, Floats, Lags, frequencies_mhz, lag_spectrum


@dataclass(frozen=True)
class Update:
    """A new spectrum of a product, and the mean of all since the begin, by weight.

    seconds: the middle of the integration, of the day `mjd`; source, pulsar_bin: as in the record. Means
    are kept apart by these two, and begin anew where the job does.
    """

    id: int
    product: Product
    mjd: int
    seconds: float
    integration_seconds: float
    source: int
    pulsar_bin: int
    weight: float
    mhz: Floats
    bandwidth_mhz: float
    spectrum: Complexes
    mean: Complexes

    @property
    def amplitude(self) -> Floats:
        """The amplitude of each channel of this integration."""
        return np.asarray(np.abs(self.spectrum), np.float64)

    @property
    def phase_deg(self) -> Floats:
        """The phase of each channel of this integration."""
        return np.asarray(np.degrees(np.angle(self.spectrum)), np.float64)

    @property
    def mean_amplitude(self) -> Floats:
        """The amplitude of each channel of the mean."""
        return np.asarray(np.abs(self.mean), np.float64)

    @property
    def mean_phase_deg(self) -> Floats:
        """The phase of each channel of the mean."""
        return np.asarray(np.degrees(np.angle(self.mean)), np.float64)

    @property
    def lags(self) -> Lags:
        """The lag spectrum of this integration."""
        return lag_spectrum(self.spectrum, self.bandwidth_mhz)

    @property
    def mean_lags(self) -> Lags:
        """The lag spectrum of the mean."""
        return lag_spectrum(self.mean, self.bandwidth_mhz)


class Monitor:
    """Makes updates of the records of a job, of those products that are wanted.

    products: all that the job has, as `Follower.products`; an id is a place in this list.
    """

    def __init__(self, job: Input, wanted: Iterable[int] | None = None) -> None:
        """`wanted`: ids of products, all by default. Raises IndexError for one that there is not."""
        self.job = job
        self.products: Sequence[Product] = job.products()
        self._ids: dict[tuple[int, int, str], int] = {}
        self._sums: dict[tuple[int, int, int], tuple[Complexes, float]] = {}
        self.request(range(len(self.products)) if wanted is None else wanted)

    def request(self, wanted: Iterable[int]) -> None:
        """Make updates of these from now on. Raises IndexError for an id that there is not."""
        ids = {}
        for number in wanted:
            if not 0 <= number < len(self.products):
                raise IndexError(f"there is no product {number}, only 0 to {len(self.products) - 1}")
            product = self.products[number]
            ids[baseline_number(*product.telescopes), product.freq, product.polarisations] = number
        self._ids = ids

    def take(self, batch: Batch) -> list[Update]:
        """The updates that new records give, in their order."""
        if batch.restarted:
            self._sums.clear()
        updates = []
        for header, spectrum in zip(batch.headers, batch.spectra, strict=True):
            key = (int(header["baseline"]), int(header["freq"]), header["polarisations"].decode("latin-1"))
            if key in self._ids:
                updates.append(self._update(self._ids[key], header, np.asarray(spectrum, np.complex128)))
        return updates

    def _update(self, number: int, header: np.void, spectrum: Complexes) -> Update:
        product = self.products[number]
        weight = float(header["weight"])
        source, pulsar_bin = int(header["source"]), int(header["bin"])
        key = (number, source, pulsar_bin)
        total, share = self._sums.get(key, (np.zeros_like(spectrum), 0.0))
        if weight > 0:  # and not nan
            total, share = total + weight * spectrum, share + weight
            self._sums[key] = (total, share)
        band = self.job.freqs[product.freq]
        configurations = self.job.configurations
        used = configurations[min(max(int(header["configuration"]), 0), len(configurations) - 1)]
        return Update(
            id=number,
            product=product,
            mjd=int(header["mjd"]),
            seconds=float(header["seconds"]),
            integration_seconds=used.integration_seconds,
            source=source,
            pulsar_bin=pulsar_bin,
            weight=weight,
            mhz=frequencies_mhz(band, len(spectrum)),
            bandwidth_mhz=band.bandwidth_mhz,
            spectrum=spectrum,
            mean=total / share if share else np.full_like(spectrum, np.nan),
        )
