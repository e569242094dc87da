"""The visibilities of a job: read, selected, written; half a record at the end; pictures of them."""

from __future__ import annotations

import dataclasses
import io
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpiframe import cli
from mpiframe.plugins.difx import plot, spectra
from mpiframe.plugins.difx.formats import FormatError, Input, input_file
from mpiframe.plugins.difx.formats import visibilities as vis
from mpiframe.plugins.difx.formats.visibilities import Visibilities

RECORD = 74 + 8 * 320
FILE = "DIFX_60022_075600.s0000.b0000"


@pytest.fixture
def real(data: Path) -> Visibilities:
    """The visibilities of the real job."""
    return Visibilities.of_job(data / "real_run_tiny" / "tiny_1.input")


def test_the_records_of_the_real_job(real: Visibilities) -> None:
    assert len(real) == 48
    assert real.unfinished_bytes == 0
    assert [real.baseline_name(one) for one in real.baselines()] == ["FD-FD", "FD-OV", "OV-OV"]
    first = real.headers[0]
    assert (first["mjd"], first["seconds"], first["polarisations"]) == (60022, 75600.25, b"RR")
    assert first["uvw_m"].tolist() == [-640947.7510587974, -1068251.578355571, 849891.0966192652]


def test_the_records_are_the_products_that_the_input_file_promises(real: Visibilities) -> None:
    assert real.job is not None
    promised = {(one.baseline, one.freq, one.polarisations) for one in real.job.products()}
    written = {
        (int(row["baseline"]), int(row["freq"]), row["polarisations"].decode()) for row in real.headers
    }
    assert written == promised


def test_records_are_chosen_by_what_they_are(real: Visibilities) -> None:
    chosen = real.select("fd-ov", 0, "LL", source=0, pulsar_bin=0, configuration=0)
    assert len(chosen) == 4
    assert chosen.weights.tolist() == pytest.approx([0.9728, 1, 1, 1])
    assert chosen.data.shape == (4, 320)
    assert chosen.uvw_m.shape == (4, 3)
    np.testing.assert_allclose(np.diff(chosen.mjd) * 86400, 0.5, atol=1e-4)
    assert len(real.select((0, 1), since_mjd=chosen.mjd[1], until_mjd=chosen.mjd[3])) == 2 * 4
    assert len(real.select(source=7)) == 0
    assert real.select(source=7).data.shape == (0, 0)
    with pytest.raises(KeyError, match="no baseline 'FD-HN', only FD-FD, FD-OV, OV-OV"):
        real.select("FD-HN")


def test_autocorrelations_are_real_and_alike_on_both_hands(real: Visibilities) -> None:
    data = real.select("OV-OV", 0, "RR").data
    assert not data.imag.any()
    assert data.real.mean() > 1.0


def test_the_fringe_of_the_real_job(real: Visibilities) -> None:
    for hand, clear in (("RR", True), ("LL", True), ("RL", False)):
        chosen = real.select("FD-OV", 0, hand)
        lags = spectra.lag_spectrum(spectra.mean_spectrum(chosen.data, chosen.weights), 8.0)
        assert (lags.snr > 100 and abs(lags.delay_us) < 1e-3) == clear


def test_a_file_is_written_as_it_was_read(real: Visibilities, data: Path) -> None:
    out = io.BytesIO()
    vis.write_records(out, real.headers, real.spectra(range(len(real))))
    assert out.getvalue() == Path(real.paths[0]).read_bytes()


def test_headers_iterate_with_their_spectra(real: Visibilities) -> None:
    pairs = list(real)
    assert len(pairs) == 48
    np.testing.assert_array_equal(pairs[5][1], real.spectra([5])[0])


@pytest.mark.parametrize("cut", [1, 73, 74, 75, RECORD - 1, RECORD, 5 * RECORD + 100, 48 * RECORD])
def test_what_is_not_yet_written_in_full_is_left_for_later(job: Path, cut: int) -> None:
    file = job / "tiny_1.difx" / FILE
    os.truncate(file, 48 * RECORD - cut)
    read = Visibilities.of_job(job / "tiny_1")
    assert len(read) == (48 * RECORD - cut) // RECORD
    assert read.unfinished_bytes == (-cut) % RECORD
    assert len(read.select((0, 1)).data) == len(read.select((0, 1)))


def test_a_job_has_visibilities_in_several_files(job: Path) -> None:
    folder = job / "tiny_1.difx"
    whole = (folder / FILE).read_bytes()
    (folder / FILE).write_bytes(whole[: 24 * RECORD])
    (folder / vis.file_name(60022, 75601)).write_bytes(whole[24 * RECORD :])
    (folder / vis.file_name(60022, 75602)).write_bytes(b"")
    (folder / "PCAL_60022_075600_FD").write_text("# DiFX-derived pulse cal data\n")
    read = Visibilities.of_job(job / "tiny_1.difx")
    assert [os.path.basename(one)[11:17] for one in read.paths] == ["075600", "075601", "075602"]
    np.testing.assert_allclose(np.diff(read.select("FD-OV", 0, "RR").mjd) * 86400, 0.5, atol=1e-4)
    assert len(read.spectra(range(48))) == 48


def test_the_folder_of_a_job_is_beside_it_or_where_its_input_file_says(job: Path, tmp_path: Path) -> None:
    read = Input.read(job / "tiny_1.input")
    elsewhere = tmp_path / "scratch" / "tiny_1.difx"
    named = dataclasses.replace(read, output_path=str(elsewhere))
    assert vis.output_folder(job / "tiny_1", named) == str(job / "tiny_1.difx")
    (job / "tiny_1.difx").rename(job / "moved.difx")
    assert vis.output_folder(job / "tiny_1", read) == str(job / "tiny_1.difx")  # no such place here
    elsewhere.parent.mkdir()  # where it will be
    assert vis.output_folder(job / "tiny_1", named) == str(elsewhere)
    here = dataclasses.replace(read, output_path="moved.difx")
    assert vis.output_folder(job / "tiny_1.input", here) == str(job / "moved.difx")


def records(rows: list[tuple[int, int]], order: str = "<") -> tuple[bytes, vis.Headers, list[Any]]:
    """A file of records, by frequency and number of channels."""
    chance = np.random.default_rng(len(rows))
    headers = vis.make_headers(len(rows))
    headers["freq"] = [freq for freq, _ in rows]
    headers["baseline"] = 258
    headers["seconds"] = np.arange(len(rows))
    data = [(chance.normal(size=n) + 1j * chance.normal(size=n)).astype(np.complex64) for _, n in rows]
    swapped = headers.astype(vis.HEADER.newbyteorder(order))
    pieces = [swapped[i].tobytes() + row.astype(f"{order}c8").tobytes() for i, row in enumerate(data)]
    return b"".join(pieces), headers, data


@pytest.mark.parametrize("order", ["<", ">"])
@settings(deadline=None)  # a busy machine is no error of the format
@given(freqs=st.lists(st.integers(0, 3), max_size=300))
def test_records_of_many_sizes_in_both_byte_orders(
    tmp_path_factory: pytest.TempPathFactory, order: str, freqs: list[int]
) -> None:
    channels = {0: 1, 1: 16, 2: 5, 3: 16}
    content, headers, data = records([(freq, channels[freq]) for freq in freqs], order)
    path = tmp_path_factory.mktemp("v") / vis.file_name(60022, 0)
    path.write_bytes(content)
    read = Visibilities([path], channels)
    np.testing.assert_array_equal(read.headers, headers)
    for index, row in enumerate(data):
        np.testing.assert_array_equal(read.spectra([index])[0], row)
    if set(freqs) >= {0, 1}:
        with pytest.raises(FormatError, match="choose one frequency"):
            read.spectra(range(len(freqs)))


@pytest.mark.parametrize(
    ("at", "content", "says"),
    [
        (0, b"BASELINE NUM:       257\n", "expected a binary record at byte 0, found text"),
        (0, b"\1\2\3\4", "expected the sync word ff00ff00 at byte 0, found 01020304"),
        (RECORD, b"\1\2\3\4", f"expected the sync word ff00ff00 at byte {RECORD}, found 04030201"),
        (RECORD + 4, b"\2", f"expected version 1 of a record at byte {RECORD}, found 2"),
        (RECORD + 32, b"\7", f"the record at byte {RECORD} is of frequency 7, which the job does not have"),
        (RECORD + 32, b"\xff\xff\xff\xff", "is of frequency -1, which the job does not have"),
    ],
)
def test_what_is_no_record_is_an_error_that_says_where(job: Path, at: int, content: bytes, says: str) -> None:
    file = job / "tiny_1.difx" / FILE
    with file.open("r+b") as out:
        out.seek(at)
        out.write(content)
    with pytest.raises(FormatError, match=says) as caught:
        Visibilities.of_job(job / "tiny_1")
    assert caught.value.path == str(file)


def test_damaged_files_are_errors_of_the_format_or_read(data: Path, tmp_path: Path) -> None:
    whole = (data / "real_run_tiny" / "tiny_1.difx" / FILE).read_bytes()[: 6 * RECORD]
    chance = random.Random(8)
    path = tmp_path / FILE
    refused = 0
    for _ in range(300):
        content = bytearray(whole)
        for _ in range(chance.randrange(1, 6)):
            content[chance.randrange(6) * RECORD + chance.randrange(80)] = chance.randrange(256)
        path.write_bytes(content[: chance.randrange(len(content))])
        try:
            read = Visibilities([path], {0: 320, 5: 7})
        except FormatError:
            refused += 1
        else:
            used = sum(74 + 8 * len(row) for _, row in read)
            assert used + read.unfinished_bytes == os.path.getsize(path)
    assert 50 < refused < 300


def test_wrong_records_are_not_written() -> None:
    out = io.BytesIO()
    headers = vis.make_headers(2)
    for wrong in ([[1, 2]], [[1, 2], []], [[1, 2], [[1, 2]]]):
        with pytest.raises(FormatError):
            vis.write_records(out, headers, wrong)
    with pytest.raises(FormatError, match="begin with make_headers"):
        vis.write_records(out, np.zeros(1, vis.HEADER), [[1]])
    assert out.getvalue() == b""


def test_numbers_of_baselines() -> None:
    assert vis.baseline_number(0, 1) == 258
    assert vis.telescopes_of(258) == (0, 1)
    assert vis.baseline_number(0, 0) == 257


# -- spectra --------------------------------------------------------------------------------------


def test_channels_rise_in_frequency_on_both_sidebands() -> None:
    upper = spectra.frequencies_mhz(input_file.Freq(100.0, 8.0, "U"), 4)
    lower = spectra.frequencies_mhz(input_file.Freq(108.0, 8.0, "L"), 4)
    assert upper.tolist() == [100, 102, 104, 106]
    assert lower.tolist() == [102, 104, 106, 108]


@settings(deadline=None)
@given(st.floats(-1.5, 1.5), st.integers(32, 200))
def test_the_delay_of_a_slope_is_found(delay_us: float, channels: int) -> None:
    bandwidth = 16.0
    rising = np.exp(2j * np.pi * delay_us * bandwidth / channels * np.arange(channels))
    chance = np.random.default_rng(channels)
    noise = 0.05 * (chance.normal(size=channels) + 1j * chance.normal(size=channels))
    lags = spectra.lag_spectrum(rising + noise, bandwidth)
    longest = 0.9 * channels / bandwidth / 2  # beyond that it comes in from the other side
    if abs(delay_us) < longest:
        assert lags.delay_us == pytest.approx(delay_us, abs=0.2 / bandwidth)
        assert lags.snr > 5


def test_a_spectrum_without_data_has_no_delay() -> None:
    assert np.isnan(spectra.mean_spectrum(np.ones((2, 4)), [0, 0])).all()
    assert np.isnan(spectra.lag_spectrum(np.full(4, np.nan), 1.0).delay_us)
    assert np.isnan(spectra.lag_spectrum(np.zeros(4), 1.0).snr)
    with pytest.raises(ValueError, match="two channels"):
        spectra.lag_spectrum([1], 1.0)


def test_the_mean_is_by_weight() -> None:
    assert spectra.mean_spectrum([[1, 2], [3, 4]], [3, 1]).tolist() == [1.5, 2.5]


# -- pictures -------------------------------------------------------------------------------------


def test_the_picture_of_a_baseline_shows_its_fringe(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["difx", "plot", str(job / "tiny_1.input")]) == 0
    path = Path(capsys.readouterr().out.strip())
    assert path == job / "tiny_1.FD-OV.png"
    assert path.read_bytes().startswith(b"\x89PNG")

    figure = plot.plot_baseline(Visibilities.of_job(job / "tiny_1"), "FD-OV")
    amplitude, phase, lag = figure.axes
    lines = {line.get_label(): line for line in amplitude.lines}
    assert set(lines) == {"RR", "LL", "RL", "LR"}
    assert np.max(lines["RR"].get_ydata()) > 1.2 > 0.2 > np.max(lines["RL"].get_ydata())
    assert lines["RR"].get_xdata()[[0, -1]].tolist() == pytest.approx([4909.0, 4916.975])
    assert np.median(np.abs(phase.lines[-1].get_ydata())) < 2  # degrees
    labels = [text.get_text() for text in lag.get_legend().get_texts()]
    assert any(label.startswith("RR: 0.0000 us, SNR 13") for label in labels)
    assert "LR: no clear peak" in labels
    assert amplitude.get_ylabel() == "amplitude"
    assert "2023-03-19 21:00:00 to 21:00:01 UTC, 4 integrations" in figure.get_suptitle()


def test_a_picture_of_what_was_asked_for(job: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.svg"
    options = ["--baseline", "ov-ov", "--pol", "RR", "--freq", "0", "-o", str(out)]
    assert cli.main(["difx", "plot", str(job / "tiny_1"), *options]) == 0
    assert "<svg" in out.read_text()


def test_a_picture_of_several_bands_of_both_sidebands(tmp_path: Path, data: Path) -> None:
    job = Input.read(data / "repo" / "ma008_1.input")
    chosen = [one for one in job.products() if one.telescopes == (1, 2)]
    headers = vis.make_headers(len(chosen))
    headers["baseline"] = [one.baseline for one in chosen]
    headers["freq"] = [one.freq for one in chosen]
    headers["polarisations"] = [one.polarisations.encode() for one in chosen]
    headers["mjd"] = job.start_mjd
    rows = [np.ones(job.channels(one.freq)) for one in chosen]
    with (tmp_path / FILE).open("wb") as out:
        vis.write_records(out, headers, rows)
    figure = plot.plot_baseline(Visibilities([tmp_path / FILE], job.channel_counts(), job), "ON-YS")
    assert len(figure.axes[0].lines) == len(chosen)
    assert len(figure.axes[2].lines) == 4
    assert figure.axes[2].get_legend().get_title().get_text() == "peak, the clearest band"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["tiny_1", "--baseline", "FD-HN"], "there is no baseline 'FD-HN', only FD-FD, FD-OV, OV-OV"),
        (["nothing"], "No such file or directory"),
        (["tiny_1", "--pol", "XX"], "there are no such visibilities of baseline FD-OV"),
        (["tiny_1", "-o", "picture.foo"], "'foo' is not supported"),
    ],
)
def test_a_picture_that_cannot_be_made_is_one_line(
    job: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    says: str,
) -> None:
    monkeypatch.chdir(job)
    assert cli.main(["difx", "plot", *arguments]) == 1
    assert says in capsys.readouterr().err


def test_a_job_without_visibilities_has_no_picture(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (job / "tiny_1.difx" / FILE).write_bytes(b"")
    assert cli.main(["difx", "plot", str(job / "tiny_1")]) == 1
    assert "the job has no visibilities yet" in capsys.readouterr().err
