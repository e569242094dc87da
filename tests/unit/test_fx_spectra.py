"""The numbers of the FX correlator example, without MPI: any executor's map can run its shares."""

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("baseband")
pytest.importorskip("matplotlib")
sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

from baseband.data import SAMPLE_MARK4, SAMPLE_MARK5B, SAMPLE_MWA_VDIF
from fx import fringes, recordings, report, spectra, synthetic


@pytest.fixture(scope="module")
def samples():
    return recordings.sample_recordings()


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """A synthetic recording of 60 frame sets, in three stretches."""
    path = tmp_path_factory.mktemp("fx") / "known.vdif"
    # Not by threads: when it writes, baseband silences a warning in a way that is for one thread only.
    synthetic.write(lambda function, stretches: map(function, reversed(list(stretches))), path, 60)
    return recordings.inspect(path)


def noise(segments, length, inputs, seed=0):
    return np.random.default_rng(seed).standard_normal((segments, length, inputs))


def all_samples(recording):
    return np.concatenate(list(recording.blocks(0, recording.samples, 7001)))


class TestRecordings:
    def test_headers_of_the_real_samples(self, samples):
        vdif, mark5b = samples
        assert vdif.inputs == tuple(f"T{n}" for n in range(8))
        assert (vdif.samples, vdif.frames, vdif.sample_rate_mhz) == (40_000, 2, 32.0)
        assert vdif.start_utc == "2014-06-16T05:56:07.000000"
        assert vdif.stop_utc == "2014-06-16T05:56:07.001250"
        assert mark5b.inputs == tuple(f"C{n}" for n in range(8))
        assert (mark5b.samples, mark5b.frames, mark5b.station) == (20_000, 4, "not recorded")
        assert mark5b.start_utc == "2014-06-13T05:30:01.000000"
        assert vdif.name != mark5b.name

    def test_first_samples_as_published_for_these_files(self, samples):
        # From the comments in baseband/vdif/base.py, decoded by an independent program (m5d).
        first = [-1, -1, 3, -1, 1, -1, 3, -1, 1, 3, -1, 1]
        block = next(samples[0].blocks(0, 12, 12))
        assert np.round(block[:, 0]).tolist() == first

    def test_a_range_is_the_same_range_of_all(self, samples):
        for recording in samples:
            whole = all_samples(recording)
            part = np.concatenate(list(recording.blocks(4_990, 15_003, 1_000)))
            assert np.array_equal(part, whole[4_990:15_003])

    def test_what_headers_lack_is_asked_for(self):
        with pytest.raises(ValueError, match="nchan"):
            recordings.inspect(SAMPLE_MARK5B, sample_rate_mhz=32, date="2014-06-01")
        with pytest.raises(ValueError, match="sample_rate"):
            recordings.inspect(SAMPLE_MWA_VDIF)

    def test_not_a_recording(self, tmp_path):
        path = tmp_path / "text"
        path.write_text("no samples here\n" * 1000)
        with pytest.raises(ValueError, match="neither of vdif"):
            recordings.inspect(path)
        with pytest.raises(FileNotFoundError):
            recordings.inspect(tmp_path / "missing")


class TestSegments:
    @pytest.mark.parametrize("channels", [32, 100, 128, 513])
    @pytest.mark.parametrize("frames", [1, 2, 3, 1000])
    def test_every_partition_has_each_segment_once(self, samples, channels, frames):
        for recording in samples:
            shares = list(spectra.split(recording, channels, frames))
            numbers = [n for share in shares for n in range(share.first, share.stop)]
            assert numbers == list(range(recording.samples // (2 * channels)))

    def test_frames_shorter_than_a_segment(self):
        recording = recordings.inspect(SAMPLE_MWA_VDIF, sample_rate_mhz=1.28)
        assert recording.samples_per_frame == 128
        shares = list(spectra.split(recording, 300, 1))
        assert [(s.first, s.stop) for s in shares] == [(0, 1), (1, 2), (2, 3), (3, 4)]

    def test_too_short_a_recording(self, samples):
        with pytest.raises(ValueError, match="one segment"):
            spectra.correlate(map, samples[1], 20_000, 1)


class TestFx:
    def test_products_are_those_of_their_definition(self):
        data = noise(5, 16, 3)
        total = spectra.x_step(*spectra.f_step(data, 8))
        row = 0
        for i in range(3):
            for j in range(i, 3):
                expected = sum(
                    np.fft.rfft(data[s, :, i]) * np.fft.rfft(data[s, :, j]).conj() for s in range(5)
                )
                np.testing.assert_allclose(total.products[row], expected[:8], rtol=1e-12)
                row += 1
        assert total.weights.tolist() == [5] * 6

    def test_an_auto_spectrum_sums_to_the_power_of_the_samples(self, samples):
        # Parseval; what is missing is the Nyquist point, which correlators drop.
        recording, channels = samples[0], 100
        result = spectra.correlate(map, recording, channels, 1)
        data = all_samples(recording).astype(float)
        width = recording.sample_rate_mhz / 2 / channels
        alternating = data.reshape(-1, 2 * channels, 8) * (-1.0) ** np.arange(200)[:, np.newaxis]
        nyquist = (alternating.mean(axis=1) ** 2).mean(axis=0)
        autos = [row for row, (i, j) in enumerate(result.baselines) if i == j]
        power = result.density[autos].real.sum(axis=1) * width
        np.testing.assert_allclose(power + nyquist, (data**2).mean(axis=0), rtol=1e-6)

    def test_complex_samples_have_zero_frequency_in_the_middle(self):
        turns = np.exp(-2j * np.pi * 3 / 16 * np.arange(32)).reshape(2, 16, 1)
        spectrum, _ = spectra.f_step(turns, 16)
        power = np.abs(spectrum[:, 0, 0])
        assert np.argmax(power) == 8 - 3
        assert np.fft.fftshift(np.fft.fftfreq(16))[np.argmax(power)] == -3 / 16

    def test_segments_not_recorded_have_no_weight(self):
        data = noise(6, 16, 2)
        broken = data.copy()
        broken[2, 5, 0] = np.nan
        broken[4, :, 1] = np.nan
        total = spectra.x_step(*spectra.f_step(broken, 8))
        assert total.weights.tolist() == [5, 4, 5]
        good = spectra.x_step(*spectra.f_step(data[[0, 1, 3, 5]], 8))
        np.testing.assert_allclose(total.products[1], good.products[1], rtol=1e-12)
        assert np.isfinite(total.products).all()

    def test_mark4_headers_replace_samples_and_lose_their_segments(self):
        recording = recordings.inspect(SAMPLE_MARK4, date="2014-06-01")
        result = spectra.correlate(map, recording, 128, 1)
        # 640 samples at the head of each of two frames: three segments of 256 in either.
        lost = np.isnan(all_samples(recording)[: 625 * 256].reshape(625, -1)).any(axis=1).sum()
        assert set(result.weights) == {625 - lost}
        assert lost == 6

    @pytest.mark.parametrize("frames", [1, 2, 3])
    @pytest.mark.parametrize("channels", [32, 100, 128])
    def test_any_partition_in_any_order_gives_the_same(self, samples, frames, channels):
        for recording in samples:
            whole = spectra.correlate(map, recording, channels, 10**6)
            with ThreadPoolExecutor(3) as pool:

                def backwards(function, shares, pool=pool):
                    return reversed(list(pool.map(function, shares)))

                parts = spectra.correlate(backwards, recording, channels, frames)
            assert spectra.deviation(parts, whole).max() < 1e-13
            np.testing.assert_array_equal(parts.weights, whole.weights)

    def test_deviation_sees_a_wrong_value_and_a_missing_segment(self, samples):
        result = spectra.correlate(map, samples[1], 128, 1)
        density, weights = result.density.copy(), result.weights.copy()
        density[3, 7] *= 1 + 1e-6
        weights[5] -= 1
        off = spectra.deviation(replace(result, density=density, weights=weights), result)
        assert off[5] == np.inf
        assert 0 < off[3] < 1e-5
        assert off[4] == 0

    def test_coherence_of_an_input_with_itself_is_one(self, samples):
        result = spectra.correlate(map, samples[0], 64, 1)
        coherence = result.coherence()
        for row, (i, j) in enumerate(result.baselines):
            if i == j:
                np.testing.assert_allclose(coherence[row], 1, rtol=1e-12)
        assert np.abs(coherence).max() <= 1 + 1e-12


class TestFringes:
    @pytest.mark.parametrize("delay_ns", [0.0, 7.7, -123.4, 1987.0, -1999.0])
    def test_a_pure_delay_is_found_exactly(self, delay_ns):
        frequency = np.arange(128) * 0.125
        coherence = 0.1 * np.exp(2e-3j * np.pi * frequency * delay_ns + 1j)
        found = fringes.fit(frequency, coherence, np.ones(128, bool), 1000)
        assert found.delay_ns == pytest.approx(delay_ns, abs=1e-6)
        assert found.amplitude == pytest.approx(0.1)
        phase = np.degrees(np.angle(coherence))
        turned = (found.phase_at(frequency) - phase + 180) % 360 - 180
        np.testing.assert_allclose(turned, 0, atol=1e-6)

    def test_error_is_the_scatter_and_noise_is_no_fringe(self):
        frequency, weight = np.arange(128) * 0.125, 400
        usable = np.ones(128, bool)
        signal = 0.05 * np.exp(2e-3j * np.pi * frequency * 50)
        draw = np.random.default_rng(3)
        offsets, errors, false = [], [], 0
        for _ in range(300):
            noise = draw.standard_normal((128, 2)) @ [1, 1j] / np.sqrt(2 * weight)
            found = fringes.fit(frequency, signal + noise, usable, weight)
            offsets.append(found.delay_ns - 50)
            errors.append(found.error_ns)
            false += fringes.fit(frequency, noise, usable, weight).detected
        assert np.std(offsets) == pytest.approx(np.mean(errors), rel=0.15)
        assert abs(np.mean(offsets)) < 4 * np.std(offsets) / np.sqrt(300)
        assert false == 0

    def test_nothing_recorded(self):
        found = fringes.fit(np.arange(64.0), np.zeros(64, complex), np.ones(64, bool), 0)
        assert not found.detected
        found = fringes.fit(np.arange(64.0), np.zeros(64, complex), np.ones(64, bool), 5)
        assert not found.detected

    def test_real_data_have_the_expected_fringes(self, samples):
        # By their headers, the threads 2n and 2n + 1 of the VLBA sample are tuned alike, so they
        # may share a signal. T0-T6 are not: a regression value, no truth known.
        result = spectra.correlate(map, samples[0], 128, 1)
        found = {result.label(row): f for row, f in enumerate(fringes.fit_fringes(result)) if f}
        assert found["T2-T3"].snr > 25
        detected = {label for label, fringe in found.items() if fringe.detected}
        assert detected == {"T0-T1", "T2-T3", "T4-T5", "T0-T6"}

    def test_a_line_is_left_out_and_a_sloping_band_is_not(self):
        power = np.linspace(4.0, 0.5, 128)
        power[40] *= 3
        usable = fringes._continuum(power)
        assert np.flatnonzero(~usable[6:-6]).tolist() == [40 - 6]


class TestSynthetic:
    def test_a_plain_vdif_file(self, known):
        assert (known.frames, known.station, known.bits) == (60, "Sy", 2)
        assert known.file_bytes == 60 * synthetic.FRAME_BYTES
        assert known.start_utc == "2024-03-01T12:00:00.000000"
        assert not Path(known.path).with_suffix(".part").exists()
        assert np.isfinite(all_samples(known)).all()

    def test_the_same_file_whoever_writes_it(self, known, tmp_path):
        synthetic.write(map, tmp_path / "again.vdif", 60)
        assert (tmp_path / "again.vdif").read_bytes() == Path(known.path).read_bytes()

    def test_the_delays_come_out(self, known):
        result = spectra.correlate(map, known, 128, 7)
        for (i, j), fringe in zip(result.baselines, fringes.fit_fringes(result), strict=True):
            if fringe is not None:
                true = synthetic.DELAYS_NS[j] - synthetic.DELAYS_NS[i]
                assert fringe.detected
                assert abs(fringe.delay_ns - true) < 5 * fringe.error_ns
                # Of the correlation, the decoder of two bits keeps 0.88, less what the delay loses.
                assert 0.8 < fringe.amplitude / synthetic.SOURCE_POWER < 0.95
        peak = result.frequency_mhz[np.argmax(result.density[0].real)]
        assert abs(peak - synthetic.TONE_MHZ) < 0.125


def test_report(samples, tmp_path):
    for recording in [*samples, recordings.inspect(SAMPLE_MWA_VDIF, sample_rate_mhz=1.28)]:
        result = spectra.correlate(map, recording, 64, 1)
        found = fringes.fit_fringes(result)
        report.plot(tmp_path / "plot.png", result, found)
        assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
        report.write_table(tmp_path / "t.csv", result, found, spectra.deviation(result, result))
        lines = (tmp_path / "t.csv").read_text().splitlines()
        assert len(lines) == 1 + len(result.baselines)
        assert {line.count(",") for line in lines} == {len(report.COLUMNS) - 1}
        report.write_spectra(tmp_path / "s.npz", result)
        with np.load(tmp_path / "s.npz") as stored:
            np.testing.assert_array_equal(stored["density_levels2_per_mhz"], result.density)
            assert stored["baselines"].tolist()[0] == result.label(0)
        assert len(report.summary(result, found).splitlines()) >= len(recording.inputs)
