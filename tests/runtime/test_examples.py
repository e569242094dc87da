"""The examples of collectives do their work over every MPI, and notice what is wrong.

The other examples are run elsewhere: the clock by `test_readme.py`, the correlator by `launch/demo`.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
HISTOGRAM, FFT = EXAMPLES / "reduce_histogram.py", EXAMPLES / "spmd_fft.py"
FEW = ("--blocks", "7", "--samples", "20000")


def servers(ranks: int) -> str:
    return "1 server\n" if ranks == 2 else f"{ranks - 1} servers\n"


@pytest.mark.parametrize("ranks", [2, 4])
def test_the_histogram(launcher, ranks: int) -> None:
    said = launcher.run([str(HISTOGRAM), *FEW], ranks).expect(0).stdout
    assert said.startswith(f"7 blocks of 20,000 samples on {servers(ranks)}")
    assert re.search(r"^ +-8 to  -1 #{45,50}\n +0 to   7 #{45,50}\n", said, re.MULTILINE)
    assert len(re.findall(": passed$", said, re.MULTILINE)) == 4
    assert "7 of the blocks, counted by the client alone, bit for bit: passed" in said
    assert said.endswith("\nall checks passed\n")


def test_the_histogram_is_the_same_for_any_number_of_servers(launcher) -> None:
    def without_times(ranks: int) -> list[str]:
        said = launcher.run([str(HISTOGRAM), *FEW], ranks).expect(0).stdout
        return [line for line in said.splitlines()[1:] if "Msample/s" not in line]

    assert without_times(2) == without_times(4)


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("size", [128, 131])  # a prime, which no number of servers divides
def test_the_image(launcher, ranks: int, size: int) -> None:
    said = launcher.run([str(FFT), "--size", str(size)], ranks).expect(0).stdout
    assert said.splitlines(True)[0].endswith(f"a plane of {size} x {size}, {servers(ranks)}")
    assert len(re.findall(": passed$", said, re.MULTILINE)) == 6
    for place in [(0, 0), (0.21, 0.13), (-0.32, 0.05), (0.1, -0.4), (-0.17, -0.23)]:
        x, y = (round(part * size) for part in place)
        assert re.search(rf"peak of +\d+\.\d+ Jy at \({x}, {y}\), a source", said), said
    assert said.endswith("\nall checks passed\n")


@pytest.mark.parametrize(
    ("path", "right", "wrong", "options"),
    [
        (HISTOGRAM, "map(count, few))", "map(count, few[1:]))", FEW),
        (HISTOGRAM, "THRESHOLD, BEST = 19.5", "THRESHOLD, BEST = 21", FEW),
        (FFT, '(ours, axis=1, norm="forward")', "(ours, axis=1)", ("--size", "128")),
        (FFT, "(u * x + v * y)", "(u * y + v * x)", ("--size", "128")),
    ],
)
def test_a_check_that_fails_is_said_and_is_the_exit_status(
    launcher, tmp_path: Path, path: Path, right: str, wrong: str, options: tuple[str, ...]
) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count(right) == 1
    script = tmp_path / path.name
    script.write_text(text.replace(right, wrong), encoding="utf-8")
    said = launcher.run([str(script), *options], 3).expect(1).stdout
    assert ": FAILED\n" in said
    assert said.endswith("\nA CHECK FAILED\n")


@pytest.mark.parametrize(
    ("path", "options", "complaint"),
    [(HISTOGRAM, ["--blocks", "0"], "at least one block"), (FFT, ["--size", "9"], "at least 64")],
)
def test_bad_options_are_refused(launcher, path: Path, options: list[str], complaint: str) -> None:
    assert complaint in launcher.run([str(path), *options], 2).expect(2).stderr
