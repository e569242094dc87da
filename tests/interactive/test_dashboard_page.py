"""The dashboard's page in a real Chromium, on a double of a world and with no network but loopback."""

from __future__ import annotations

import time
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from mpiframe.watch.dashboard import command_line
from mpiframe.watch.dashboard.server import Dashboard

from .fake_world import NASTY, FakeWorld

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
SECONDS = 30_000  # milliseconds, for what takes a moment


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        yield browser
        browser.close()


class Visit:
    """A dashboard, a page that shows it, and what the page did."""

    def __init__(self, browser: Browser, world: FakeWorld, **context: Any) -> None:
        self.world = world
        self.dashboard = Dashboard(world)
        self.url = self.dashboard.start()
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **context})
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(SECONDS)
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", lambda message: self.complaints.append(message.text))

    def open(self) -> Page:
        self.page.goto(self.url)
        expect(self.page.locator("#link")).to_have_text("live", timeout=SECONDS)
        return self.page

    def close(self) -> None:
        self.context.close()
        self.dashboard.stop()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Visit]]:
    visits: list[Visit] = []

    def make(world: FakeWorld | None = None, **context: Any) -> Visit:
        visits.append(Visit(browser, world or FakeWorld(history=90), **context))
        return visits[-1]

    yield make
    for one in visits:
        one.close()


def picture(page: Page) -> str:
    return str(page.evaluate("document.getElementById('timeline').toDataURL()"))


def until(page: Page, condition: str) -> None:
    """Wait for it. Playwright's own way has the page evaluate text, which the page's policy forbids."""
    deadline = time.monotonic() + SECONDS / 1000
    while not page.evaluate(condition):
        assert time.monotonic() < deadline, condition[:200]
        page.wait_for_timeout(50)


def test_the_page_shows_the_servers_as_they_are(visit: Callable[..., Visit]) -> None:
    one = visit()
    page = one.open()
    expect(page.locator("#servers tbody tr")).to_have_count(4)
    now = one.world(0)
    for row, server in zip(page.locator("#servers tbody tr").all(), now["servers"], strict=True):
        cells = row.locator("td").all_text_contents()
        assert cells[0] == str(server["rank"])
        assert cells[1] == "node17"
        assert cells[2] in ("busy", "idle")
        assert cells[3] == str(server["queued"])
        assert cells[7] == f"{server['rss'] >> 20} MiB"
    expect(page.locator("#shared")).to_have_text("12 wait for any server")
    expect(page.locator("h1")).to_have_text("mpiframe survey")
    expect(page.locator("#about")).to_contain_text("Open MPI 5.0.8 · 5 ranks on 1 host · reduce_survey.py")
    tiles = dict(
        zip(
            page.locator(".tile span").all_text_contents(),
            page.locator(".tile b").all_text_contents(),
            strict=True,
        )
    )
    assert tiles["queued"] == str(12 + sum(s["queued"] for s in now["servers"]))
    assert int(tiles["done"]) > 50
    assert one.complaints == []


def test_the_page_shows_sessions_and_what_plugins_show(visit: Callable[..., Visit]) -> None:
    page = visit().open()
    assert page.locator("#sessions tbody td:first-child").all_text_contents() == ["ann-1", "bob-1"]
    assert page.locator("#sessions tbody td:nth-child(2)").all_text_contents() == ["attached", "away"]
    assert page.locator(".panel h2").all_text_contents() == ["Batch jobs (slurm)", "Tokens", "DiFX jobs"]
    jobs = page.locator(".panel").nth(0)
    assert jobs.locator("tbody tr").nth(1).locator("td").all_text_contents() == [
        "4712",
        "cal",
        "completed",
        "exit code 0",
    ]
    tokens = page.locator(".panel").nth(1)
    assert tokens.locator("tbody td").all_text_contents() == ["L123", "40", "4", "156", "2"]
    assert page.locator(".panel").nth(2).locator(".bar i").nth(1).evaluate("e => e.style.width") == "100%"


def test_the_timeline_moves_while_commands_run_and_stands_still_when_told_to(
    visit: Callable[..., Visit],
) -> None:
    page = visit().open()
    before = picture(page)
    until(page, f"document.getElementById('timeline').toDataURL() !== {before!r}")
    page.click("#freeze")
    page.mouse.move(0, 0)
    page.wait_for_timeout(300)
    still = picture(page)
    page.wait_for_timeout(700)  # some ten drawings
    assert picture(page) == still
    page.click("#freeze")
    until(page, f"document.getElementById('timeline').toDataURL() !== {still!r}")


def test_pointing_at_a_command_tells_what_it_is_and_a_click_keeps_it(visit: Callable[..., Visit]) -> None:
    page = visit().open()
    page.click("#freeze")
    box = page.locator("#timeline").bounding_box()
    assert box is not None
    expect(page.locator("#told")).to_contain_text("Point at a command")
    page.mouse.move(box["x"] + box["width"] * 0.4, box["y"] + 12)
    expect(page.locator("#told")).to_contain_text("on server 1:")
    told = page.locator("#told").text_content() or ""
    assert "of ann-1" in told
    assert " after " in told
    page.mouse.click(box["x"] + box["width"] * 0.4, box["y"] + 12)
    page.mouse.move(5, 5)
    expect(page.locator("#told")).to_have_text(told + " (kept)")


def test_the_window_of_time_can_be_chosen(visit: Callable[..., Visit]) -> None:
    page = visit(FakeWorld(history=1000)).open()
    page.click("#freeze")
    before = picture(page)
    page.select_option("#window", "900")
    until(page, f"document.getElementById('timeline').toDataURL() !== {before!r}")


def test_output_shows_live_and_by_server(visit: Callable[..., Visit]) -> None:
    page = visit().open()
    until(page, "document.querySelectorAll('#output div').length > 5")
    count = page.locator("#output div").count()
    until(page, f"document.querySelectorAll('#output div').length > {count}")
    assert page.evaluate(
        "(e => e.scrollHeight - e.scrollTop - e.clientHeight < 3)(document.getElementById('output'))"
    )
    assert "rms" in (page.locator("#output div span").first.text_content() or "")
    page.select_option("#filter", "2")
    shown = page.locator("#output div:visible b").all_text_contents()
    assert shown
    assert {text.split()[0] for text in shown} == {"2"}
    page.select_option("#filter", "")
    assert page.locator("#output div:visible").count() > len(shown)


def test_pieces_of_a_line_are_one_line(visit: Callable[..., Visit]) -> None:
    class Slow(FakeWorld):
        """Prints one line in three pieces, among the others."""

        def __call__(self, since: int) -> dict[str, Any]:
            self._seq += 1
            now = super().__call__(since)
            now["output"] = []
            if 3 <= self.asked <= 5:
                text = {3: "10 %", 4: " 20 %", 5: " done\nnext\n"}[self.asked]
                piece = {"server": 1, "request": 9, "stream": "stdout", "text": text, "seq": now["seq"]}
                now["output"] = [piece]
            return now

    page = visit(Slow()).open()
    until(page, "document.querySelectorAll('#output div').length === 2")
    assert page.locator("#output div span").all_text_contents() == ["10 % 20 % done", "next"]


def test_html_in_commands_output_names_and_panels_does_nothing(visit: Callable[..., Visit]) -> None:
    one = visit(FakeWorld(nasty=True, history=30))
    page = one.open()
    until(page, "document.querySelectorAll('#output div').length > 5")
    page.click("#freeze")
    box = page.locator("#timeline").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 0.97, box["y"] + 12)
    expect(page.locator("#told")).to_contain_text("<script>")
    page.wait_for_timeout(500)
    assert page.title() == "survey · mpiframe"
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == 1  # the page's own
    for place in ("#servers", "#output", "#sessions", "#panels", "#about"):
        assert NASTY in (page.locator(place).text_content() or ""), place
    assert page.locator("td[title]").first.get_attribute("onerror") is None
    assert one.complaints == []


def test_no_request_leaves_loopback_and_none_could(visit: Callable[..., Visit]) -> None:
    one = visit()
    page = one.open()
    page.wait_for_timeout(1500)
    hosts = {urllib.parse.urlsplit(url).hostname for url in one.requests if not url.startswith("data:")}
    assert hosts == {"127.0.0.1"}
    assert one.complaints == []
    violated = page.evaluate(
        """async () => {
            const seen = [];
            document.addEventListener("securitypolicyviolation", (e) => seen.push(e.effectiveDirective));
            await fetch("http://192.0.2.1/").catch(() => 0);
            const image = new Image();
            image.src = "http://192.0.2.1/x.png";
            const script = document.createElement("script");
            script.textContent = "document.title = 'HACKED'";
            document.body.append(image, script);
            await new Promise((resolve) => setTimeout(resolve, 300));
            return seen;
        }"""
    )
    assert set(violated) == {"connect-src", "img-src", "script-src-elem"}
    assert page.title() != "HACKED"


def test_the_token_leaves_the_address_and_the_page_can_be_loaded_again(visit: Callable[..., Visit]) -> None:
    one = visit()
    page = one.open()
    assert one.dashboard.token not in page.url
    assert page.evaluate("document.cookie") == ""
    page.reload()
    expect(page.locator("#link")).to_have_text("live")
    later = [url for url in one.requests if one.dashboard.token in url]
    assert later == [one.url]  # the first request, and no other


def test_the_file_that_leads_a_browser_there_does(visit: Callable[..., Visit]) -> None:
    """What `dashboard --open` gives to a browser, which counts as another site."""
    one = visit()
    with command_line._door(one.url) as path:
        one.page.goto(path.as_uri())
        expect(one.page.locator("#link")).to_have_text("live", timeout=SECONDS)
    assert "token" not in one.page.url
    assert one.complaints == []


def test_a_wrong_token_gets_a_page_that_says_what_to_do(visit: Callable[..., Visit]) -> None:
    one = visit()
    answer = one.page.goto(one.url[:-4] + "XXXX")
    assert answer is not None
    assert answer.status == 403
    expect(one.page.locator("h1")).to_have_text("Not let in")
    expect(one.page.locator("main")).to_contain_text("Open the address that mpiframe dashboard printed")
    assert (
        one.page.locator(".card").evaluate("e => getComputedStyle(e).borderRadius") == "10px"
    )  # with its style


def test_the_page_says_when_the_world_has_gone(visit: Callable[..., Visit]) -> None:
    one = visit()
    page = one.open()
    one.world.end("It was stopped.")
    expect(page.locator("#banner")).to_contain_text("This world has gone: It was stopped.", timeout=SECONDS)
    expect(page.locator("#link")).to_have_text("gone")
    expect(page.locator("#servers tbody tr")).to_have_count(4)  # how it was at the end
    page.wait_for_timeout(300)
    still = picture(page)
    page.wait_for_timeout(500)
    assert picture(page) == still


def test_the_page_says_when_the_dashboard_itself_has_ended(visit: Callable[..., Visit]) -> None:
    one = visit()
    page = one.open()
    one.dashboard.stop()
    expect(page.locator("#banner")).to_contain_text("The dashboard cannot be reached", timeout=SECONDS)
    expect(page.locator("#link")).to_have_text("no news")


def test_another_world_in_its_place_is_shown_as_another(visit: Callable[..., Visit]) -> None:
    worlds = [FakeWorld(name="first", history=60), FakeWorld(servers=2, name="second")]

    class Both(FakeWorld):
        """First the one, then the other."""

        def __call__(self, since: int) -> dict[str, Any]:
            self.asked += 1
            return worlds[0 if self.asked < 4 else 1](since)

    page = visit(Both()).open()
    expect(page.locator("#name")).to_have_text("second", timeout=SECONDS)
    expect(page.locator("#servers tbody tr")).to_have_count(2)


def test_a_hundred_servers_and_a_flood_of_output_leave_the_page_alive(visit: Callable[..., Visit]) -> None:
    page = visit(FakeWorld(servers=100, history=300)).open()
    expect(page.locator("#servers tbody tr")).to_have_count(100)
    until(page, "document.querySelectorAll('#output div').length > 100")
    assert page.locator("#output div").count() <= 2000
    begun = time.monotonic()
    assert (
        page.evaluate("new Promise((r) => requestAnimationFrame(() => requestAnimationFrame(() => r(7))))")
        == 7
    )
    assert time.monotonic() - begun < 20


@pytest.mark.parametrize(
    ("name", "width", "height", "scheme"),
    [
        ("light", 1280, 800, "light"),
        ("dark", 1280, 800, "dark"),
        ("narrow", 400, 860, "light"),
        ("narrow-dark", 400, 860, "dark"),
    ],
)
def test_it_is_readable_in_every_light_and_width(
    visit: Callable[..., Visit], tmp_path: Path, name: str, width: int, height: int, scheme: str
) -> None:
    page = visit(viewport={"width": width, "height": height}, color_scheme=scheme).open()
    until(page, "document.querySelectorAll('#output div').length > 5")
    page.screenshot(path=tmp_path / f"{name}.png", full_page=True)
    assert (tmp_path / f"{name}.png").stat().st_size > 30_000
    assert page.evaluate("document.documentElement.scrollWidth") <= width  # nothing sticks out
    ground, text = page.evaluate(
        "[getComputedStyle(document.documentElement).backgroundColor, getComputedStyle(document.body).color]"
    )
    assert brightness(ground) > 0.9 if scheme == "light" else brightness(ground) < 0.2
    assert abs(brightness(ground) - brightness(text)) > 0.6


def brightness(colour: str) -> float:
    red, green, blue = (float(part) for part in colour.removeprefix("rgb(").rstrip(")").split(","))
    return (0.299 * red + 0.587 * green + 0.114 * blue) / 255
