"""Lists of links, against what GRID_LRT's own gave (data/srmlist_vectors.txt), and its defects."""

from __future__ import annotations

import copy
import pickle
import re
from pathlib import Path
from typing import Any

import pytest

from mpiframe.plugins.grid.error_codes import ErrorCode, describe
from mpiframe.plugins.grid.srmlist import slice_dicts, srmlist
from mpiframe.plugins.grid.storage_errors import LinkError, NoLinksError

DATA = Path(__file__).parent / "data"
LINES = (DATA / "srmlist_vectors.txt").read_text().splitlines()
JUELICH = "srm://lofar-srm.fz-juelich.de:8443/pnfs/fz-juelich.de/data/lofar/ops/1/L583127_SB010_uv.MS"
OTHER = "srm://somewhere.else:8443/data/L583127_SB011_uv.MS"


def vectors() -> dict[str, tuple[str, str, dict[str, str]]]:
    """name: (site, observation, function: result), as the file has them."""
    found: dict[str, tuple[str, str, dict[str, str]]] = {}
    for line in LINES:
        if head := re.fullmatch(r"(\w+) loc (\w+) obsid (\w+)", line):
            name, site, obsid = head.groups()
            found[name] = (site, obsid, {})
        elif (line.startswith("    ")) and "_replace " in line:
            function, _, result = line.strip().partition(" ")
            found[name][2][function] = result
    return found


VECTORS = vectors()
# What each block of the file was made from: the links in the form they are listed in.
SOURCES = {
    "sara": VECTORS["sara"][2]["srm_replace"],
    "juelich": VECTORS["juelich"][2]["srm_replace"],
    "poznan": VECTORS["poznan"][2]["srm_replace"],
    "gsi": VECTORS["gsi"][2]["gsi_replace"],
    "unknown": "srm://nowhere.example.org:8443/data/L1_SB000_uv.MS",
}


def vector(start: str) -> str:
    """What stands behind these words in the file."""
    (found,) = [line[len(start) :].strip() for line in LINES if line.startswith(start)]
    return found


def sample() -> srmlist:
    return srmlist().from_file(DATA / "srm_50_sara.txt")


def test_the_vectors_are_all_there() -> None:
    assert set(VECTORS) == set(SOURCES)
    assert [len(results) for _, _, results in VECTORS.values()] == [4] * 5


@pytest.mark.parametrize("name", SOURCES)
def test_conversions(name: str) -> None:
    site, obsid, results = VECTORS[name]
    links = srmlist(link=SOURCES[name])
    assert (str(links.lta_location), str(links.LTA_location), links.obsid) == (site, site, obsid)
    for function, result in results.items():
        assert str(getattr(links, function)(links[0])) == result, function


@pytest.mark.parametrize("name", ["sara", "juelich", "poznan", "gsi"])
def test_conversions_of_whole_lists_take_every_form(name: str) -> None:
    results = VECTORS[name][2]
    srm, gsi = results["srm_replace"], results["gsi_replace"]
    http = results["http_replace"].partition("=")[0] + "=" + srm if name != "gsi" else None
    for form in (srm, gsi, results["gfal_replace"], srm.replace(":8443/", ":8443//", 1)):
        if "8443//" in form and "pnfs" not in form and name != "poznan":
            continue
        links = srmlist(link=form)
        assert list(links.srm_links()) == [srm]
        assert list(links.gsi_links()) == [gsi]
        (download,) = links.http_links()
        assert download is not None
        assert download.endswith("SRMFifoGet.py?surl=" + srm)
        assert http in (None, download)
    assert list(srmlist(link=srm).gfal_links()) == [srmlist().gfal_replace(srm)]


def test_links_come_out_in_order() -> None:
    links = sample()
    assert list(links.srm_links()) == list(links)
    assert [str(link).rpartition("/")[2] for link in links.gsi_links()] == [
        link.rpartition("/")[2] for link in links
    ]
    # GRID_LRT's came out backwards; the vector shows only that there are as many as links.
    assert vector("order gsi_links").count("L229507_SB1") == len(list(links[:3].gsi_links()))


def test_the_checks_of_append() -> None:
    assert vector("no obsid ERR").startswith("AttributeError")
    with pytest.raises(AttributeError, match="no observation"):
        srmlist(link="srm://srm.grid.sara.nl:8443/pnfs/grid.sara.nl/data/file.tar")
    links = srmlist(check_OBSID=False, link="srm://srm.grid.sara.nl:8443/pnfs/no/obs")
    assert vector("check_OBSID False, no L") == str(links.obsid)
    kind, _, text = vector("juelich then unknown ERR").partition(" ")
    links = srmlist(link=JUELICH)
    with pytest.raises(AttributeError, match=re.escape(text)) as caught:
        links.append(OTHER)
    assert kind == "AttributeError"
    assert isinstance(caught.value, LinkError)
    loose = srmlist(check_location=False)
    loose.append(JUELICH)
    loose.append(OTHER)
    assert f"'{loose.lta_location}'" in vector("check_location False")
    assert f", {len(loose)}," in vector("check_location False")
    assert srmlist(link="srm://x/L229507/SB").obsid == eval(vector("obsid regex on path"))
    with pytest.raises(LinkError, match="Different OBSID"):
        links.append(JUELICH.replace("L583127", "L583128"))
    assert list(links) == [JUELICH]


def test_nothing_and_repeated_links_are_not_added() -> None:
    links = srmlist(link=JUELICH)
    for item in (None, "", "   ", "\n", JUELICH, JUELICH + "\n", JUELICH.replace("/pnfs", "//pnfs", 1)):
        links.append(item)
    links.append(JUELICH.encode())
    assert links == [JUELICH]


def test_a_word_among_others_is_found_and_none_is_an_error() -> None:
    assert vector("double space") == "[(None, [None])]"  # what is beaten: None was kept
    links = srmlist()
    links.append(f"1024  {JUELICH} 2018-01-01")
    assert links == [JUELICH]
    with pytest.raises(LinkError, match="no word"):
        links.append("L1 and  L2")
    with pytest.raises(LinkError, match="text, not int"):
        links.append(5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "way",
    [
        lambda links, item: links.extend([JUELICH[:-3] + ".tar", item]),
        lambda links, item: links.insert(0, item),
        lambda links, item: links.__iadd__([item]),
        lambda links, item: links + [item],  # noqa: RUF005 - the operator is what is tested
        lambda links, item: links.__setitem__(slice(0, 0), [item]),
        lambda links, item: links.__setitem__(slice(None), [JUELICH, item]),
        lambda links, item: srmlist(link=JUELICH).__setitem__(slice(5, 9), [item]),
        lambda links, item: links.__setitem__(1, item),
    ],
)
def test_every_way_in_is_checked_and_adds_nothing_if_one_is_wrong(way: Any) -> None:
    assert vector("extend bypasses").startswith("[(None, 2")
    links = srmlist(link=JUELICH)
    links.append(JUELICH.replace("SB010", "SB012"))
    before = list(links)
    for wrong in (OTHER, JUELICH.replace("L583127", "L1"), "srm://x/none", "a b"):
        with pytest.raises(LinkError):
            way(links, wrong)
        assert links == before


def test_lists_are_lists() -> None:
    links = sample()
    assert len(links) == 51
    assert isinstance(links[3:5], srmlist)
    assert links[3:5] + links[4:6] == links[3:6]
    links[0] = links[0].replace("SB100", "SB099")
    assert "SB099" in links[0]
    with pytest.raises(LinkError, match="already"):
        links[0] = links[1]
    links[1:] = []
    links *= 3
    assert len(links) == len(links * 2) == 1
    links.extend(links)
    assert len(links) == 1
    links[:] = [JUELICH]  # nothing of before stays, so another observation may come
    assert (links.obsid, links.lta_location) == ("L583127", "juelich")
    links.clear()
    links += [SOURCES["sara"]]
    assert links.obsid == "L229507"
    assert (srmlist().obsid, srmlist().lta_location) == (None, None)
    with pytest.raises(TypeError, match="extend"):
        srmlist([JUELICH])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="append"):
        links.extend(JUELICH)


def test_lists_travel() -> None:
    loose = srmlist(check_OBSID=False, check_location=False)
    loose.extend([JUELICH, "srm://x/none"])
    for links in (loose, sample()):
        for other in (pickle.loads(pickle.dumps(links)), copy.deepcopy(links), links.copy()):
            assert type(other) is srmlist
            assert other == links
            assert (other.check_OBSID, other.check_location) == (links.check_OBSID, links.check_location)


def test_a_file_with_a_wrong_line_names_it(tmp_path: Path) -> None:
    path = tmp_path / "srm.txt"
    path.write_text(f"\n{JUELICH}\n\n{JUELICH}\n{OTHER}\n")
    links = srmlist()
    with pytest.raises(LinkError, match=r"srm\.txt, line 5: Appended srm link"):
        links.from_file(path)
    assert links == []
    path.write_text(f"\n{JUELICH}\n\n{JUELICH}\n")
    assert links.from_file(path) is links
    assert links == [JUELICH]
    with pytest.raises(FileNotFoundError):
        links.from_file(tmp_path / "none")


def test_numbers_of_subbands() -> None:
    pairs = dict(sample().sbn_dict())
    keys, count = vector("['100', '101',").rstrip().rpartition(" ")[::2]
    assert f"['100', '101', {keys}" == str(list(pairs)[:3])
    assert len(pairs) == int(count)
    assert all([type(links) is srmlist and len(links) == 1 for links in pairs.values()])
    with pytest.raises(LinkError, match="pref="):
        list(sample().sbn_dict(pref="ABN_"))
    with pytest.raises(LinkError, match="regular expression"):
        list(sample().sbn_dict(pref="("))


def numbered(*numbers: str) -> dict[str, srmlist]:
    return {number: srmlist(link=f"srm://x/L1_SB{number}_uv") for number in numbers}


@pytest.mark.parametrize("size", [10, 25])
def test_slices(size: int) -> None:
    slices = slice_dicts(dict(sample().sbn_dict()), size)
    assert {key: len(links) for key, links in slices.items()} == eval(vector(f"slice {size} "))
    assert all([type(links) is srmlist for links in slices.values()])
    assert [link for links in slices.values() for link in links] == list(sample())


def test_slices_of_one_and_with_gaps() -> None:
    assert len(slice_dicts(dict(sample().sbn_dict()), 1)) == int(vector("slice 1 "))
    gap = slice_dicts(numbered("100", "109", "110"))
    assert {key: len(links) for key, links in gap.items()} == eval(vector("gap "))
    assert list(slice_dicts(numbered("000", "243"), 10)) == ["000", "240"]


def test_slices_of_what_cannot_be_sliced() -> None:
    kind, _, text = vector("non numeric ERR").partition(" ")
    assert kind == "ValueError"
    with pytest.raises(ValueError, match=re.escape(text)):
        slice_dicts(numbered("abc"))
    assert vector("empty ERR").startswith("IndexError")
    with pytest.raises(IndexError, match="empty") as caught:
        slice_dicts({})
    assert isinstance(caught.value, NoLinksError)
    # Numbers in other than three digits gave an empty dictionary, silently.
    assert vector("2-digit") == "{}"
    assert {k: len(v) for k, v in slice_dicts(numbered("98", "99", "107", "108")).items()} == {
        "098": 3,
        "108": 1,
    }
    assert list(slice_dicts({7: ["srm://x/L1"], 8: "srm://x/L1b"}, 1)) == ["007", "008"]
    with pytest.raises(LinkError, match="same subband"):
        slice_dicts(numbered("7", "007"))
    for size in (0, -1, 2.5, True):
        with pytest.raises(LinkError, match="slice_size"):
            slice_dicts(numbered("7"), size)  # type: ignore[arg-type]
    with pytest.raises(LinkError, match="Different OBSID"):
        slice_dicts({"001": srmlist(link="srm://x/L1"), "002": srmlist(link="srm://x/L2")})


def test_error_codes() -> None:
    assert ErrorCode.of(-2) is ErrorCode.SANDBOX_EMPTY
    assert ErrorCode.of("22") is ErrorCode.NOT_STAGED
    for other in ("", None, True, 2.0, "x", 5, 1000):
        assert ErrorCode.of(other) is None
    assert len({code.meaning for code in ErrorCode}) == 22
    assert "ran out of memory" in describe(97)
    assert describe(5) == "5 (a code of the processing itself)"
    assert pickle.loads(pickle.dumps(ErrorCode.OK)) is ErrorCode.OK
    assert sorted(ErrorCode) == [
        -2,
        0,
        1,
        3,
        4,
        10,
        11,
        12,
        20,
        21,
        22,
        23,
        *range(30, 35),
        90,
        *range(96, 100),
    ]
