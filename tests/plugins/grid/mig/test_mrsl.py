"""mRSL: the verdicts and values of a real server's parser, and what is written is read again."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpiframe.plugins.grid.mig import MrslError, mrsl

DATA = Path(__file__).parent / "data"
# Made by a real server's parser: name, verdict, the error's beginning, values that are not defaults.
VERDICTS = [line.split(" ", 2) for line in (DATA / "mrsl_parsed_by_real_mig.txt").read_text().splitlines()]
SHOWN = ["CPUTIME", "MEMORY", "DISK", "MAXPRICE", "ARCHITECTURE", "SANDBOX", "PLATFORM", "JOBNAME"]


def sample(name: str) -> str:
    return (DATA / "mrsl" / name).read_text()


def test_every_sample_has_a_verdict() -> None:
    assert sorted(name for name, _, _ in VERDICTS) == sorted(path.name for path in (DATA / "mrsl").iterdir())


@pytest.mark.parametrize(("name", "verdict", "rest"), VERDICTS, ids=[name for name, _, _ in VERDICTS])
def test_the_real_servers_verdict(name: str, verdict: str, rest: str) -> None:
    description, problems = mrsl.read(sample(name))
    assert (not problems) == (verdict == "True")
    words, _, values = rest.rpartition("{")
    assert {
        key: description[key] for key in SHOWN if description[key] != mrsl.KEYWORDS[key][1]
    } == ast.literal_eval("{" + values)
    if problems:
        assert len(problems) == 1
        error = words.partition("Error  ")[2].partition("     You")[0].rstrip()
        assert words.split()[1] in problems[0]
        assert error in problems[0]
        with pytest.raises(MrslError, match=words.split()[1]):
            mrsl.parse(sample(name))


@pytest.mark.parametrize("name", [name for name, _, _ in VERDICTS if name.startswith("generated_by")])
def test_it_is_written_as_the_original_wrote_it(name: str) -> None:
    found = mrsl.parse(sample(name))
    more = {"VGRID": found["VGRID"]} if found["VGRID"] else None
    assert mrsl.write(
        found["EXECUTE"], found["INPUTFILES"], found["OUTPUTFILES"], found["EXECUTABLES"], more
    ) == sample(name)


def test_lines_of_a_sample() -> None:
    found = mrsl.parse(sample("generecon.mRSL"))
    assert found["EXECUTE"][0] == 'echo "Starting generecon-static"'
    assert found["ENVIRONMENT"] == (("GUILE_LOAD_PATH", "."),)
    assert ("generecon.scm", "generecon.scm") in found.files("INPUTFILES")
    assert len(found["INPUTFILES"]) == 14
    assert "MEMORY" in found.given
    assert "VGRID" not in found.given


def test_variables_are_expanded() -> None:
    found = mrsl.parse(
        "::EXECUTE::\necho +JOBID+ +JOBNAME+\n\n::OUTPUTFILES::\no +JOBID+.o\n\n::JOBNAME::\nn\n"
    )
    full = found.expanded("17")
    assert full["EXECUTE"] == ("echo 17 n",)
    assert full.files("OUTPUTFILES") == [("o", "17.o")]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "EXECUTE"),
        ("::EXECUTE::\n\n", "EXECUTE"),
        ("::EXECUT::\nls\n", "did you mean ::EXECUTE::"),
        ("what is this", "unknown keyword: what is this"),
        ("::EXECUTE::\nls\n\n::CPUTIME::\nten\n", "requires an integer"),
        ("::EXECUTE::\nls\n\n::CPUTIME::\n1\n2\n", "requires only a single integer"),
        ("::EXECUTE::\nls\n\n::ENVIRONMENT::\nnot a pair\n", "key=value"),
        ("::EXECUTE::\nls\n\n::ENVIRONMENT::\na b=1\n", "'a b' is no name of a variable"),
        ("::EXECUTE::\nls\n\n::SANDBOX::\nperhaps\n", "boolean"),
        ("::EXECUTE::\nls\n\n::JOBTYPE::\nodd\n", "jobtype not valid"),
        ("::EXECUTE::\nls\n\n::JOBNAME::\na b\n", "invalid character: ' '"),
        ("::EXECUTE::\nls\n\n::INPUTFILES::\na b c\n", "1 or 2 space-separated items"),
    ],
)
def test_what_is_malformed_is_told(text: str, named: str) -> None:
    with pytest.raises(MrslError) as caught:
        mrsl.parse(text)
    assert named in str(caught.value)


def test_all_problems_are_told_at_once() -> None:
    _, problems = mrsl.read("::CPUTIME::\nx\n\n::MEMROY::\n1\n")
    assert [p.split()[1].strip(",") for p in problems] == ["::CPUTIME::", "keyword:", "::EXECUTE::"]


def test_comments_and_their_escapes() -> None:
    found = mrsl.parse("::EXECUTE::\n# nothing\nls # this\necho \\# \\\\# that\necho a\\tb\n")
    assert found["EXECUTE"] == ("ls", "echo # \\", "echo a\\tb")


printable = st.text(
    st.characters(min_codepoint=32, max_codepoint=0x2FF, exclude_categories=("Cc", "Zs", "Zl", "Zp"))
    | st.sampled_from(" #\\:'\"$"),
    min_size=1,
)


@given(st.lists(printable.map(str.strip).filter(bool), min_size=1))
def test_what_is_written_is_read_again(lines: list[str]) -> None:
    assert list(mrsl.parse(mrsl.write(lines))["EXECUTE"]) == lines


def test_values_of_all_kinds_are_written() -> None:
    text = mrsl.write(
        ["ls"],
        specifications={"CPUTIME": 5, "vgrid": ["A", "B"], "ENVIRONMENT": {"x": "1=2"}, "SANDBOX": True},
    )
    found = mrsl.parse(text)
    assert (found["CPUTIME"], found["VGRID"], found["ENVIRONMENT"], found["SANDBOX"]) == (
        5, ("A", "B"), (("x", "1=2"),), True,
    )  # fmt: skip


def test_lines_in_one_text_are_lines() -> None:
    assert mrsl.parse(mrsl.write(["a\n\nb\r\nc"]))["EXECUTE"] == ("a", "b", "c")
    with pytest.raises(MrslError, match="zero byte"):
        mrsl.write(["a\0b"])
