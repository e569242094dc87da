"""Descriptions: what is written can be read, and what cannot be is refused."""

from __future__ import annotations

import re
import xml.etree.ElementTree as tree
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from mpiframe.plugins.grid.arc import DescriptionError, JobDescription
from mpiframe.plugins.grid.arc.description import language

ADL = "{http://www.eu-emi.eu/es/2010/12/adl}"
NORDUGRID = "{http://www.nordugrid.org/es/2011/12/nordugrid-adl}"
TEXT = some.text(
    some.characters(
        exclude_categories=("Cs",), exclude_characters="".join(map(chr, range(32))) + "\ufffe\uffff"
    )
)


def read_xrsl(text: str) -> dict[str, list[object]]:
    """A small reader: attribute to its values, each a text or a list of texts."""
    assert text[0] == "&"
    tokens = re.findall(r'"(?:[^"]|"")*"|[()=]|[^()="\s]+', text[1:], re.DOTALL)
    assert "".join(tokens) == re.sub(r'(?<=["\)]) (?=["\(])', "", text[1:]) or '"' in text

    def values(at: int) -> tuple[list[object], int]:
        found: list[object] = []
        while tokens[at] != ")":
            if tokens[at] == "(":
                inner, at = values(at + 1)
                found.append(inner)
            else:
                found.append(tokens[at][1:-1].replace('""', '"'))
            at += 1
        return found, at

    result: dict[str, list[object]] = {}
    at = 0
    while at < len(tokens):
        assert tokens[at] == "("
        assert tokens[at + 2] == "="
        result[tokens[at + 1]], at = values(at + 3)
        at += 1
    return result


@settings(max_examples=50, deadline=None)
@given(
    TEXT.filter(bool),
    some.lists(TEXT),
    some.dictionaries(some.from_regex(r"[A-Z_]{1,5}", fullmatch=True), TEXT),
)
def test_texts_arrive_as_they_are(name: str, arguments: list[str], environment: dict[str, str]) -> None:
    job = JobDescription("/bin/x", arguments, name=name, environment=environment)
    root = tree.fromstring(job.to_adl())
    assert root.findtext(f"{ADL}ActivityIdentification/{ADL}Name") == name
    assert [one.text or "" for one in root.iter(f"{ADL}Argument")] == arguments
    options = root.iter(f"{ADL}Environment")
    assert {one.findtext(f"{ADL}Name"): one.findtext(f"{ADL}Value") for one in options} == environment
    xrsl = read_xrsl(job.to_xrsl())
    assert xrsl["jobname"] == [name]
    assert xrsl.get("arguments", []) == arguments
    assert xrsl.get("environment", []) == [list(pair) for pair in environment.items()]


def test_what_is_sent_and_what_the_element_reads() -> None:
    job = JobDescription(
        "run.sh",
        inputs={"run.sh": Path("here/run.sh"), "big": "https://store.example.org/big", "in.dat": "in.dat"},
        outputs={"out/": "", "far": "https://store.example.org/far"},
    )
    assert job.uploads == {"run.sh": "here/run.sh", "in.dat": "in.dat"}
    assert job.needs_delegation
    assert not JobDescription("run.sh", inputs={"run.sh": "run.sh"}).needs_delegation
    root = tree.fromstring(job.to_adl("d1"))
    assert root.findtext(f"{ADL}DataStaging/{NORDUGRID}DelegationID") == "d1"
    inputs = {one.findtext(f"{ADL}Name"): one for one in root.iter(f"{ADL}InputFile")}
    assert inputs["big"].findtext(f"{ADL}Source/{ADL}URI") == "https://store.example.org/big"
    assert inputs["in.dat"].find(f"{ADL}Source") is None
    assert inputs["run.sh"].findtext(f"{ADL}IsExecutable") == "true"
    outputs = {
        one.findtext(f"{ADL}Name"): one.findtext(f"{ADL}Target/{ADL}URI")
        for one in root.iter(f"{ADL}OutputFile")
    }
    assert outputs == {
        "stdout.txt": None,
        "stderr.txt": None,
        "out/": None,
        "far": "https://store.example.org/far",
    }
    xrsl = read_xrsl(job.to_xrsl("d1"))
    assert xrsl["inputfiles"] == [["run.sh", ""], ["big", "https://store.example.org/big"], ["in.dat", ""]]
    assert xrsl["executables"] == ["run.sh"]
    assert xrsl["delegationid"] == ["d1"]


def test_limits_have_their_units() -> None:
    job = JobDescription(
        "/bin/x", slots=4, memory_bytes=3 * 2**20 + 1, wall_seconds=60, cpu_seconds=50, queue="q",
        runtime_environments=["APPS/PYTHON-3.11", "ENV/PROXY"],
    )  # fmt: skip
    root = tree.fromstring(job.to_adl())
    wanted = {
        "IndividualPhysicalMemory": str(3 * 2**20 + 1),
        "TotalCPUTime": "50",
        "WallTime": "60",
        "SlotRequirement/{ADL}NumberOfSlots": "4",
        "QueueName": "q",
    }
    for tag, text in wanted.items():
        assert root.findtext(f"{ADL}Resources/{ADL}{tag.replace('{ADL}', ADL)}") == text
    names = [
        (e.findtext(f"{ADL}Name"), e.findtext(f"{ADL}Version")) for e in root.iter(f"{ADL}RuntimeEnvironment")
    ]
    assert names == [("APPS/PYTHON", "3.11"), ("ENV/PROXY", None)]
    xrsl = read_xrsl(job.to_xrsl())
    assert (xrsl["memory"], xrsl["walltime"], xrsl["cputime"]) == (["4"], ["60s"], ["50s"])
    assert (xrsl["count"], xrsl["queue"]) == (["4"], ["q"])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"executable": ""}, "executable"),
        ({"arguments": "one text"}, "list of words"),
        ({"inputs": {"../up": "x"}}, "cannot be a file"),
        ({"inputs": {"/etc/passwd": "x"}}, "cannot be a file"),
        ({"outputs": {"a//b": ""}}, "cannot be a file"),
        ({"stdout": "a/../../b"}, "cannot be a file"),
        ({"environment": {"A B": "x"}}, "variable"),
        ({"executables": ["no"]}, "none of the inputs"),
        ({"slots": 0}, "slots"),
        ({"wall_seconds": -1}, "wall_seconds"),
    ],
)
def test_what_is_wrong_is_said_before_it_is_sent(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(DescriptionError, match=said):
        JobDescription(**{"executable": "/bin/x", **wrong})  # type: ignore[arg-type]


def test_what_the_languages_cannot_hold() -> None:
    with pytest.raises(DescriptionError, match="XML cannot hold"):
        JobDescription("/bin/x", ["\x01"]).to_adl()
    with pytest.raises(DescriptionError, match="zero"):
        JobDescription("/bin/x", ["\0"]).to_xrsl()


def test_languages_are_told_apart() -> None:
    assert language(" <ActivityDescription/>") == "application/xml"
    assert language('\n&(executable="/bin/x")') == "application/rsl"
    for text in ("", "#!/bin/sh", "executable=x"):
        with pytest.raises(DescriptionError, match="neither ADL"):
            language(text)
