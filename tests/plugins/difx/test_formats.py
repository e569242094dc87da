"""Each text file of a job: every sample parses, and what was read is written as it was."""

from __future__ import annotations

import dataclasses
import os
import pickle
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpiframe.plugins.difx.formats import (
    Calc,
    DifxLog,
    FileList,
    Flags,
    FormatError,
    Im,
    Input,
    JobList,
    Machines,
    Threads,
    V2d,
    Vex,
    dates,
    difxlog,
    schedule,
    tables,
    v2d,
    vex,
)
from mpiframe.plugins.difx.formats.im_file import evaluate
from mpiframe.plugins.difx.formats.keyed import Record

DATA = Path(__file__).parent / "data"
KINDS: dict[str, Any] = {
    ".input": Input,
    ".calc": Calc,
    ".im": Im,
    ".flag": Flags,
    ".machines": Machines,
    ".machine": Machines,
    ".threads": Threads,
    ".thread": Threads,
    ".joblist": JobList,
    ".filelist": FileList,
    ".difxlog": DifxLog,
    ".v2d": V2d,
    ".vex": Vex,
}
SAMPLES = sorted(path for path in DATA.rglob("*") if path.suffix in KINDS)
MUTATIONS = 10_000 if os.environ.get("MPIFRAME_TEST_LONG") else 400  # of all samples together


def name(path: Path) -> str:
    return path.name


def raw(path: Path) -> str:
    return path.read_bytes().decode()


def forget(record: Any) -> Any:
    """The same values, as if they had never been read."""
    if isinstance(record, tuple):
        return tuple(forget(one) for one in record)
    if not dataclasses.is_dataclass(record):
        return record
    hidden = {"written", "notes", "read_as", "lead", "tail", "head"}
    values = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
    return type(record)(**{key: forget(value) for key, value in values.items() if key not in hidden})


def test_there_is_a_sample_of_each_kind() -> None:
    assert {path.suffix for path in SAMPLES} == set(KINDS)
    assert len(SAMPLES) == 28


@pytest.mark.parametrize("path", SAMPLES, ids=name)
def test_a_sample_is_written_byte_for_byte_as_it_was_read(path: Path) -> None:
    read = KINDS[path.suffix].read(path)
    assert read.text() == raw(path)
    assert KINDS[path.suffix].parse(read.text()) == read


@pytest.mark.parametrize("path", SAMPLES, ids=name)
def test_the_values_alone_are_written_and_read_back(path: Path) -> None:
    kind = KINDS[path.suffix]
    read = kind.read(path)
    assert kind.parse(forget(read).text()) == read


# Of the others, ma008_1's writer was an older one with other numbers of digits, example.* are by hand,
# and a .v2d or .vex has comments and a layout of its own.
@pytest.mark.parametrize(
    "path",
    [p for p in SAMPLES if p.parent.name == "real_run_tiny" and p.suffix not in (".v2d", ".vex")],
    ids=name,
)
def test_what_was_never_read_is_written_as_difx_writes_it(path: Path) -> None:
    assert forget(KINDS[path.suffix].read(path)).text() == raw(path)


@pytest.mark.parametrize("path", SAMPLES, ids=name)
def test_what_was_read_can_be_sent(path: Path) -> None:
    read = KINDS[path.suffix].read(path)
    sent = pickle.loads(pickle.dumps(read))
    assert sent == read
    assert sent.text() == raw(path)


SIGNS = '0123456789-:;={},*"#@$\r\n \t\0'


def mutated(text: str, chance: random.Random) -> str:
    """The text with a few of the things that happen to files."""
    for _ in range(chance.randrange(1, 5)):
        lines = text.split("\n")
        at, other = chance.randrange(len(lines)), chance.randrange(len(lines))
        where = chance.randrange(len(text) + 1)
        match chance.randrange(7):
            case 0:
                text = "\n".join(lines[:at] + lines[at + 1 :])
            case 1:
                text = "\n".join([*lines[:at], lines[other], *lines[at:]])
            case 2:
                text = text[:where]
            case 3:
                text = text[:where] + chr(chance.randrange(1, 0x250)) + text[where + 1 :]
            case 4:
                text = text[:where] + chance.choice(SIGNS) + text[where:]
            case 5:
                text = text.replace("1", "99999999999999999999", 1)
            case _:
                text = text.replace(": ", ":-", 1)
    return text


@pytest.mark.parametrize("path", SAMPLES, ids=name)
def test_a_damaged_file_is_an_error_of_the_format_or_written_as_it_was(path: Path) -> None:
    chance = random.Random(path.name)
    kind = KINDS[path.suffix]
    refused = []
    for _ in range(MUTATIONS // len(SAMPLES)):
        text = mutated(raw(path), chance)
        try:
            read = kind.parse(text, "some.file")
        except FormatError as error:
            refused.append(str(error))
        else:
            assert read.text() == text
    # A log or a list hardly has a form that could be hurt.
    assert all(text.startswith("some.file") for text in refused)
    assert refused or path.suffix in (".flag", ".filelist", ".difxlog", ".machine", ".machines", ".v2d")


@pytest.mark.parametrize("kind", sorted(set(KINDS.values()), key=lambda kind: kind.__name__))
@settings(deadline=None)  # a busy machine is no error of the format
@given(text=st.text(alphabet=st.characters(codec="utf-8"), max_size=200))
def test_any_text_is_an_error_of_the_format_or_written_as_it_was(kind: Any, text: str) -> None:
    try:
        read = kind.parse(text)
    except FormatError:
        return
    assert read.text() == text


# -- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "old", "new", "says"),
    [
        (
            "tiny_1.input",
            "BW (MHZ) 0:",
            "BE (MHZ) 0:",
            r"tiny_1.input:38: expected 'BW \(MHZ\) 0:', found 'SIDEBAND",
        ),
        ("tiny_1.input", "BW (MHZ) 0:", "BE (MHZ) 0:", "line 37 has a key that is not known"),
        (
            "tiny_1.input",
            "START MJD:          60022",
            "START MJD: x",
            "an integer as the value of 'START MJD'",
        ),
        (
            "tiny_1.input",
            "FREQ ENTRIES:       1",
            "FREQ ENTRIES:       900",
            "a number of items that can follow",
        ),
        (
            "tiny_1.input",
            "FREQ ENTRIES:       1",
            "FREQ ENTRIES:       2",
            r"'FREQ \(MHZ\) 1:', found '# TELESCOPE",
        ),
        ("tiny_1.input", "# FREQ TABLE #######!", "", "expected '# FREQ TABLE"),
        (
            "tiny_1.calc",
            "NUM EOPS:           5",
            "NUM EOPS:           6",
            r"'EOP 5 TIME \(mjd\):', found 'NUM SPACE",
        ),
        ("tiny_1.im", "1.073925898596940e+04", "1,07", "a number as the value of 'SRC 0 ANT 0 DELAY"),
        ("tiny_1.flag", "0", "2\n60022 60023 0", "tiny_1.flag:1: expected 2 flags, found 1"),
        ("tiny_1.machines", "vm\nvm\n", "vm\n-host x\n", "tiny_1.machines:2: expected the name of a host"),
        ("tiny_1.threads", "NUMBER OF CORES", "CORES", "'NUMBER OF CORES:' and their number"),
        ("tiny.joblist", "60022.875 ", "", "tiny.joblist:2: expected a job"),
        ("tiny.fd.filelist", " 60022.87503472", "", "a path, alone or with two MJDs"),
        ("tiny_1.difxlog", "Sat Nov 21 09:56:02", "Sat Foo 21 09:56:02", "tiny_1.difxlog:1: expected a time"),
        (
            "tiny.v2d",
            "startSeries = 1",
            "startSeries 1",
            r"tiny.v2d:5: expected { after startSeries 1, found 'singleScan'",
        ),
        (
            "tiny.v2d",
            "minLength = 1",
            "minLength = ",
            "tiny.v2d:8: expected the name of a setting .*, found '='",
        ),
        ("tiny.v2d", "numBufferedFFTs = 10\n  maxNSBetweenACAvg = 2000000\n}", "", "but the file ends"),
        ("tiny.vex", "$GLOBAL;", "GLOBAL;", r"tiny.vex:6: expected a block, as \$SCHED;, found 'GLOBAL;'"),
        ("tiny.vex", "enddef;\n*---", "*---", "expected enddef at the end of def cband1"),
    ],
)
def test_an_error_says_where_and_what_was_expected(
    job: Path, file: str, old: str, new: str, says: str
) -> None:
    path = job / file
    text = raw(path)
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(FormatError, match=says) as caught:
        KINDS[path.suffix].read(path)
    assert caught.value.path == str(path)
    assert pickle.loads(pickle.dumps(caught.value)).args == caught.value.args


LARGE = [
    " " * 50_000,
    "a=" + " " * 50_000 + "x",
    '"' * 50_000,
    "a = " * 10_000,
    "VEX_rev = 1.5;" + "a:" * 50_000 + ";",
    "VEX_rev = 1.5;$A;" + "def b;" * 5_000,
    "exper=a " * 10_000,
    "Sat Nov 21 09:56:02 2026   0 vm  WEIGHTS" + " 1" * 30_000 + "\n",
    "# COMMON SETTINGS ##!\n" + "X: y\n" * 5_000,
    "9" * 50_000,
]


@pytest.mark.timeout(30)
@pytest.mark.parametrize("text", LARGE, ids=lambda text: text[:12])
def test_large_nonsense_takes_no_long_time_nor_gives_a_long_error(text: str) -> None:
    for kind in set(KINDS.values()):
        try:
            assert kind.parse(text).text() == text
        except FormatError as error:
            assert len(str(error)) < 500  # noqa: PT017 - either is well


def test_an_item_may_not_be_missing_as_a_whole(data: Path) -> None:
    text = raw(data / "repo" / "example.calc").replace("SCAN 56", "SCAN 66")
    with pytest.raises(FormatError, match="expected item 57 of 57 scans, found 'SCAN 66 POINTS"):
        Calc.parse(text)


def test_a_write_that_fails_leaves_what_was_there(job: Path) -> None:
    path = job / "tiny_1.input"
    before = raw(path)
    wrong = dataclasses.replace(Input.read(path), active_datastreams=3)
    with pytest.raises(FormatError, match=r"Configuration.datastreams has 2 items, but there have to be 3"):
        wrong.write(path)
    assert raw(path) == before
    assert not [one for one in job.iterdir() if one.name.startswith(".")]


def test_a_file_that_is_replaced_keeps_its_permissions_and_a_link_stays_one(job: Path) -> None:
    path, link = job / "tiny_1.flag", job / "link.flag"
    path.chmod(0o640)
    link.symlink_to(path.name)
    Flags((tables.FlagSpan(60022.5, 60022.75, 1),)).write(link)
    assert link.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o640
    assert raw(path) == "1\n60022.5 60022.75 1\n"


# -- what the files say ---------------------------------------------------------------------------


def test_the_input_file_says_what_is_correlated(data: Path) -> None:
    job = Input.read(data / "real_run_tiny" / "tiny_1.input")
    assert (job.start_mjd, job.start_seconds, job.seconds) == (60022, 75600.0, 2.0)
    assert job.configurations[0].integration_seconds == 0.5
    assert [one.name for one in job.telescopes] == ["FD", "OV"]
    assert job.telescopes[1].clock_us == (16.1586205, 9.978137909999999e-09)
    assert job.channel_counts() == {0: 320}
    products = job.products()
    assert [one.polarisations for one in products if one.baseline == 258] == ["RR", "RL", "LR", "LL"]
    assert sorted({one.baseline for one in products}) == [257, 258, 514]
    with pytest.raises(KeyError, match="no telescope 'HN', only FD, OV"):
        job.telescope_index("HN")


def test_zoom_bands_are_products_of_their_own_frequencies(data: Path) -> None:
    job = Input.read(data / "repo" / "ma008_1.input")
    stream = job.datastreams[1]
    assert stream.band(0) == ("R", 2)
    assert stream.band(2) == ("R", job.datastreams[1].zoom_freqs[0].freq)
    with pytest.raises(IndexError):
        stream.band(len(stream.bands) + len(stream.zoom_bands))
    crossed = {one.freq for one in job.products() if one.telescopes == (0, 1)}
    assert len(crossed) == 16
    assert all(job.freqs[freq].bandwidth_mhz == 16 for freq in crossed)


def test_a_job_of_difx_1_is_read_with_its_own_keys(data: Path) -> None:
    job = Input.read(data / "repo" / "example.input")
    assert job.configurations[0].name == "3C345"
    assert job.telescopes[2].clock_rate_us_per_s == 0.00000148
    assert job.channels(3) == 512
    assert job.delay_path
    assert job.calc_path is None
    assert [note.text for note in job.configurations[0].notes][:1] == ["BLOCKS PER SEND:    250"]
    old = Calc.read(data / "repo" / "example.calc")
    assert len(old.scans) == 57
    assert old.scans[1].source_name == "J1329+3154"


def test_a_changed_value_changes_its_line_only(data: Path) -> None:
    path = data / "repo" / "ma008_1.input"
    job = Input.read(path)
    freqs = (dataclasses.replace(job.freqs[0], mhz=86140.123456789), *job.freqs[1:])
    text = dataclasses.replace(job, freqs=freqs).text()
    changed = [(a, b) for a, b in zip(raw(path).split("\n"), text.split("\n"), strict=True) if a != b]
    assert changed == [("FREQ (MHZ) 0:       86140.00000000000", "FREQ (MHZ) 0:       86140.123456789")]


@given(st.floats(), st.floats(allow_nan=False), st.integers(-(10**17), 10**17))
def test_numbers_are_written_so_that_they_are_read_as_the_same(one: float, other: float, whole: int) -> None:
    calc = Calc.read(DATA / "real_run_tiny" / "tiny_1.calc")
    source = dataclasses.replace(calc.sources[0], ra_rad=other, dec_rad=one, qualifier=whole)
    changed = dataclasses.replace(calc, sources=(source,))
    assert repr(Calc.parse(changed.text()).sources) == repr(changed.sources)


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e6), st.integers(0, 99))))
def test_flags_are_written_so_that_they_are_read_as_the_same(rows: list[tuple[float, float, int]]) -> None:
    flags = Flags(tuple(tables.FlagSpan(*row) for row in rows))
    assert Flags.parse(flags.text()) == flags


def test_the_model_is_that_of_the_visibilities(data: Path) -> None:
    im = Im.read(data / "real_run_tiny" / "tiny_1.im")
    models = [im.model(0, 1, telescope, 60022, 75600.25) for telescope in (0, 1)]
    uvw = [
        evaluate(getattr(models[0][0], axis), models[0][1])
        - evaluate(getattr(models[1][0], axis), models[1][1])
        for axis in ("u_m", "v_m", "w_m")
    ]
    # As mpifxcorr wrote them with its first integration.
    assert uvw == pytest.approx([-640947.7510587974, -1068251.578355571, 849891.0966192652], abs=1e-3)
    assert im.model(0, 0, 1, 60022, 75725.0)[1] == 5.0
    with pytest.raises(FormatError, match="scan 0 has no model for MJD 60023, second 0"):
        im.model(0, 0, 1, 60023, 0.0)


def test_machines_are_split_into_their_roles(data: Path) -> None:
    assert Machines.read(data / "real_run_tiny" / "tiny_1.machines").split(2) == ("vm", ["vm", "vm"], ["vm"])
    made = Machines.of("head", ["mk5-1", "mk5-2"], ["n1", "n2"])
    assert made.text() == "head\nmk5-1\nmk5-2\nn1\nn2\n"
    with pytest.raises(FormatError, match="3 machines are too few"):
        Machines.of("head", ["a", "b"], []).split(2)
    mixed = Machines.parse("# cluster\n\nhead slots=1 max-slots=1\n n1\n")
    assert mixed.machines == (tables.Machine("head", "slots=1 max-slots=1"), tables.Machine("n1"))


@pytest.mark.parametrize("host", ["", "-x", "a b", "a\nb", "#c", "a;b"])
def test_no_host_is_written_that_could_be_anything_else(host: str) -> None:
    with pytest.raises(FormatError):
        Machines.of("head", [host], ["n1"]).text()


def test_the_log_tells_of_each_run(data: Path) -> None:
    runs = DifxLog.read(data / "real_run_tiny" / "tiny_1.difxlog").runs()
    assert [run.state for run in runs] == ["Done", "Done"]
    assert [(run.ended - run.started).total_seconds() for run in runs] == [1.0, 1.0]
    assert [status.state for status in runs[0].states] == ["Starting", "Ending", *["Running"] * 4, "Done"]
    assert runs[1].weights[0].weights == (0.98, 0.97)
    assert [one.severity for one in runs[0].alerts()] == ["WARNING", "SEVERE", "SEVERE"]
    assert runs[0].lines[-1].text().endswith("MPI ID 0 says BYE!")
    with pytest.raises(ValueError, match="there is no severity 'LOUD', only FATAL"):
        runs[0].alerts("LOUD")


def test_a_log_that_is_still_written_has_an_unfinished_line(data: Path) -> None:
    text = raw(data / "real_run_tiny" / "tiny_1.difxlog")
    cut = text.index("STATUS Done")
    log = DifxLog.parse(text[:cut])
    assert log.runs()[0].state == "Running"
    assert log.unfinished == "Sat Nov 21 09:56:03 2026   0 vm  "
    assert log.text() == text[:cut]


def test_a_job_that_was_killed_and_started_again_has_two_runs() -> None:
    stamp = "Sat Nov 21 09:56:02 2026   0 head"
    log = DifxLog.parse(
        f"{stamp}  STATUS Starting  v\n{stamp}  STATUS Running  \n{stamp}  STATUS Starting  v\n"
    )
    assert [run.state for run in log.runs()] == ["Running", "Starting"]


def test_alerts_keep_odd_lines(data: Path) -> None:
    line = "Sat Nov 21 09:56:02 2026  -1 head Transient event received: x"
    log = DifxLog.parse(line + "\n")
    assert log.lines[0] == difxlog.Alert(log.lines[0].time, -1, "head", "", "Transient event received: x")


def test_a_path_of_the_list_may_have_blanks() -> None:
    jobs = JobList.parse("exper=A  vex=/data/my  exp/a.vex  pass=p\n")
    assert jobs.header == (("exper", "A"), ("vex", "/data/my exp/a.vex"), ("pass", "p"))


def test_the_list_of_jobs(data: Path) -> None:
    jobs = JobList.read(data / "real_run_tiny" / "tiny.joblist")
    assert jobs.get("vex2difx") == "3.1.0"
    assert jobs.jobs[0].telescopes == ("FD", "OV")
    assert jobs.jobs[0].mjd_stop == 60022.8750231


def test_the_options_of_vex2difx(data: Path) -> None:
    options = V2d.read(data / "real_run_tiny" / "tiny.v2d")
    assert (options.vex, options.antennas) == ("tiny.vex", ("FD", "OV"))
    (setup,) = options.sections("setup")
    assert (setup.get("tInt") or v2d.setting("none")).number == 0.5
    assert setup.get("nothing") is None
    assert (options.get("singlescan") or v2d.setting("none")).flag is True
    assert (options.get("mjdStop") or v2d.setting("none")).mjd == 60022.8750231481
    with pytest.raises(FormatError, match="an integer was expected"):
        _ = (options.get("vex") or v2d.setting("none")).integer
    rule = V2d.read(data / "repo" / "c212c-d280.v2d").sections("RULE")[0]
    assert [one.value for one in rule.all("scan")] == ["No0024", "No0086"]


def test_a_changed_option_leaves_comments_and_layout(data: Path) -> None:
    path = data / "repo" / "ma008.v2d"
    options = V2d.read(path)
    items = tuple(
        dataclasses.replace(one, values=("False",)) if getattr(one, "name", "") == "tweakIntTime" else one
        for one in options.items
    )
    assert dataclasses.replace(options, items=items).text() == raw(path).replace(
        "tweakIntTime = True", "tweakIntTime = False"
    )


def test_options_made_from_nothing() -> None:
    made = V2d((v2d.setting("vex", "a.vex"), v2d.V2dSection("SETUP", "s", (v2d.setting("tInt", 2.0),))))
    assert V2d.parse(made.text()) == made
    with pytest.raises(FormatError, match="one has blanks or is empty"):
        V2d((v2d.setting("vex", "a file.vex"),)).text()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("55076.5", 55076.5),
        ("2009y245d12h00m00s", 55076.5),
        ("2009y245d", 55076.0),
        ("2009y245d12h", 55076.5),
        ("2009SEP02-12:00:00", 55076.5),
        ("2009-09-02T12:00:00", 55076.5),
        ("2009-09-02", 55076.0),
        ("2023y078d21h00m00s", 60022.875),
    ],
)
def test_dates_in_all_forms(text: str, value: float) -> None:
    assert dates.mjd(text) == value


@pytest.mark.parametrize(
    "text", ["", "2009y400d", "2009y0d", "2009FOO02", "2009-13-01", "2009y001d25h", "now"]
)
def test_what_is_no_date(text: str) -> None:
    with pytest.raises(ValueError, match=r"date|time of a day"):
        dates.mjd(text)


@given(st.integers(40587 * 86400, 70000 * 86400))
def test_a_date_is_written_as_it_is_read(seconds: int) -> None:
    value = seconds / 86400
    assert dates.mjd(dates.vex_date(value)) == pytest.approx(value, abs=1e-9)


def test_the_schedule_with_its_units(data: Path) -> None:
    observed = Vex.read(data / "real_run_tiny" / "tiny.vex")
    calc = Calc.read(data / "real_run_tiny" / "tiny_1.calc")
    first = schedule.scans(observed)[0]
    assert (first.name, first.mjd_start, first.source, first.seconds) == (
        "No0001",
        60022.875,
        "J2005+7752",
        10.0,
    )
    (source,) = schedule.sources(observed)
    # As vex2difx read them.
    assert source.ra_rad == pytest.approx(calc.sources[0].ra_rad, abs=1e-12)
    assert source.dec_rad == pytest.approx(calc.sources[0].dec_rad, abs=1e-12)
    fd = next(one for one in schedule.stations(observed) if one.code == "Fd")
    assert fd.position_m[0] == pytest.approx(calc.stations[0].x_m, abs=1.0)  # the plates have moved since
    assert [(one.mhz, one.sideband) for one in schedule.channels(observed, "PulseCalOFF", "Ov")] == [
        (4909.0, "U")
    ] * 2
    south = schedule.sources(Vex.read(data / "repo" / "test-usb.vex"))[0]
    assert south.dec_rad == pytest.approx(-1.3962634015954636)


def test_a_changed_statement_leaves_the_rest(data: Path) -> None:
    path = data / "repo" / "test-usb.vex"
    read = Vex.read(path)
    blocks = []
    for block in read.blocks:
        items = tuple(
            dataclasses.replace(
                one,
                statements=tuple(
                    dataclasses.replace(inner, values=("TEST2",)) if inner.name == "source_name" else inner
                    for inner in one.statements
                ),
            )
            if isinstance(one, vex.Definition)
            else one
            for one in block.items
        )
        blocks.append(dataclasses.replace(block, items=items))
    changed = dataclasses.replace(read, blocks=tuple(blocks))
    assert changed.text() == raw(path).replace("source_name = TEST;", "source_name = TEST2;")


_VALUES = st.one_of(
    st.from_regex(r"[A-Za-z0-9&+.]{0,8}", fullmatch=True), st.just('"a : b; * c"'), st.just("-05d47'21.5\"")
)


@given(
    st.lists(
        st.tuples(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), st.lists(_VALUES, min_size=1, max_size=4))
    )
)
def test_statements_are_written_so_that_they_are_read_as_the_same(rows: list[tuple[str, list[str]]]) -> None:
    statements = tuple(vex.Statement(name, tuple(values)) for name, values in rows)
    made = Vex(
        vex.Statement("VEX_rev", ("1.5",), ""),
        (vex.Block("SCHED", (vex.Definition("No1", statements, "scan"),)),),
    )
    try:
        text = made.text()
    except FormatError:
        return
    assert Vex.parse(text) == made


def test_a_record_has_lines_for_all_its_fields() -> None:
    def below(kind: type[Record]) -> list[type[Record]]:
        return [kind, *(inner for one in kind.__subclasses__() for inner in below(one))]

    from mpiframe.plugins.difx.formats.keyed import _names

    for kind in below(Record):
        if kind.LINES:
            named = {name for name in _names(kind.LINES) if not name.startswith("#")}
            fields = {field.name for field in dataclasses.fields(kind)} - {"written", "notes"}
            assert named == fields, kind
