"""Options: names, types, units, and what is said of those that are wrong."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpiframe.plugins.scheduler import units
from mpiframe.plugins.scheduler.errors import OptionError
from mpiframe.plugins.scheduler.options import (
    BACKENDS,
    SPECS,
    SYNONYMS,
    Options,
    array_of,
    check_arguments,
    make_options,
    option_help,
    simple_flags,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (4000, 4000), ("4000", 4000), ("2GB", 2048), ("2g", 2048), ("2.5G", 2560), ("1K", 1), ("5M", 5),
        ("512 MiB", 512), (".5t", 524288), ("1b", 1), (1.5, 2),
    ],
)  # fmt: skip
def test_memory(text: object, expected: int) -> None:
    assert units.memory_mb(text) == expected


@pytest.mark.parametrize("text", ["lots", "", "2 GBit", "-5", 0, "0", True, None, "1e99999x", float("inf")])
def test_memory_that_cannot_be_read(text: object) -> None:
    with pytest.raises(OptionError, match="memory"):
        units.memory_mb(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1-02:03:04", 93784), ("1-02:03", 93780), ("2-00", 172800), ("12:00:00", 43200), ("1:30", 90),
        ("90", 90), (90, 90), ("90m", 5400), ("1d 2h", 93600), ("1.5 hours", 5400), ("90 minutes", 5400),
        ("2hrs30min", 9000), (0.2, 1),
    ],
)  # fmt: skip
def test_walltime(text: object, expected: int) -> None:
    assert units.seconds(text) == expected


@pytest.mark.parametrize("text", ["soon", "", "1:2:3:4", "5 dogs", "0", "00:00", -5, True, "1-2-3", None])
def test_walltime_that_cannot_be_read(text: object) -> None:
    with pytest.raises(OptionError, match="walltime"):
        units.seconds(text)


@settings(deadline=None)  # a busy machine is no error of the clock
@given(st.integers(1, 10**8))
def test_a_clock_reads_back(total: int) -> None:
    assert units.seconds(units.clock(total)) == total


def test_the_table_and_the_options_are_the_same() -> None:
    assert {field.name for field in dataclasses.fields(Options)} == set(SPECS)
    assert not set(SYNONYMS) & set(SPECS)
    assert len(SYNONYMS) == sum(len(spec.synonyms) for spec in SPECS.values())
    for spec in SPECS.values():
        assert set(spec.flags) <= set(BACKENDS)


def test_synonyms_and_types() -> None:
    options = make_options(
        {"cpus": "4", "memory": "2GB", "walltime": "1:00:00", "queue": "long", "stdout": "o"}
    )
    assert options == Options(cores=4, mem=2048, time=3600, partition="long", outfile="o")
    assert make_options({"cores": None, "modules": "gcc"}) == Options(modules=("gcc",))
    assert check_arguments({"clean_files": "yes", "depends": 5}) == {"clean_files": True, "depends": (5,)}
    assert array_of(make_options({"array": 20}).array or "") == (20, None)
    assert array_of(make_options({"array": "20%4"}).array or "") == (20, 4)


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ({"walltme": 5}, "did you mean 'walltime'"),
        ({"core": 5}, "did you mean 'cores'"),
        ({"xyzzy": 5}, "there is no option 'xyzzy'"),
        ({"mem": 1, "memory": 2}, "the same option"),
        ({"cores": 0}, "1 or more"),
        ({"cores": 1.5}, "whole number"),
        ({"cores": "many"}, "'many'"),
        ({"cores": True}, "whole number"),
        ({"mem": "lots"}, "'lots'"),
        ({"time": "soon"}, "'soon'"),
        ({"array": "0"}, "array"),
        ({"array": "5%0"}, "array"),
        ({"partition": "a\n#SBATCH --uid=0"}, "one line"),
        ({"extra": ["--x", "a\rb"]}, "one line"),
        ({"suffix": "../x"}, "suffix"),
        ({"clean_files": "maybe"}, "True or False"),
        ({"mpi": 2, "mpiframe": 2}, "exclude each other"),
    ],
)
def test_what_is_wrong_is_said(given_: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        make_options(given_)


def test_flags_are_quoted_and_what_has_no_meaning_is_told(caplog: pytest.LogCaptureFixture) -> None:
    options = make_options({"partition": "a b", "qos": "q"})
    assert simple_flags(options, "slurm") == ["--partition='a b'", "--qos=q"]
    with caplog.at_level("INFO"):
        assert simple_flags(options, "sge") == ["-q 'a b'"]
        assert simple_flags(options, "local") == []
    assert "option qos has no meaning on sge" in caplog.text


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    text = option_help()
    assert isinstance(text, str)
    assert all(name in text for name in [*SPECS, *SYNONYMS])
    assert option_help(mode="print") is None
    assert capsys.readouterr().out == text
    table = option_help("local", "table")
    assert isinstance(table, list)
    assert table[0][0] == "option"
    assert "partition" not in [row[0] for row in table]
    with pytest.raises(OptionError, match="lsf"):
        option_help("lsf")
    with pytest.raises(OptionError, match="mode"):
        option_help(mode="html")
