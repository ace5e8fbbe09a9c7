"""The report as people meet it: opened in Chromium from a file, with mouse, keys and dark mode."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nll.web import write_report
from nll.web._text import visible
from tests.web.samples import HOSTILE, PLAIN, sample, table, trace

CHROMIUM = shutil.which("chromium") or (
    "/usr/bin/chromium" if Path("/usr/bin/chromium").exists() else None
)
QUIET = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium on PATH or at /usr/bin/chromium"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with sync_api.sync_playwright() as play:
        opened = play.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("report") / "report.html"
    traces, scores = sample()
    write_report(path, traces, scores, title="<script>window.__pwned=1</script>")
    return path.as_uri()


class Watched:
    """A page, and what it did that a report must not do."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.requests: list[str] = []
        self.wrong: list[str] = []
        page.on("request", lambda r: self.requests.append(r.url))
        page.on("dialog", lambda d: (self.wrong.append(f"dialog {d.message}"), d.dismiss()))
        page.on("pageerror", lambda e: self.wrong.append(f"error {e}"))
        page.on("console", lambda m: self.wrong.append(m.text) if m.type == "error" else None)


@pytest.fixture
def watched(browser: Any, report: str) -> Iterator[Watched]:
    page = browser.new_page(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    page.set_default_timeout(10_000)
    watch = Watched(page)
    page.goto(report)
    page.wait_for_selector("#text-0 .tok")
    yield watch
    page.close()
    assert watch.wrong == []


def colour(page: Any, token: int, text: int = 0) -> str:
    found: str = (
        page.locator(f"#text-{text} .tok")
        .nth(token)
        .evaluate("el => getComputedStyle(el).backgroundColor")
    )
    return found


def measure(page: Any, name: str) -> None:
    page.locator(".measure label", has_text=name).click()


def names(page: Any) -> list[str]:
    found: list[str] = page.locator("#table tbody th a").all_text_contents()
    return found


def test_a_character_of_several_tokens_is_shown_once(browser: Any, tmp_path: Path) -> None:
    parts = trace(("a", "b", "c", "d"))
    spans = np.array([[0, 1], [1, 2], [1, 2], [2, 3]])
    one = dataclasses.replace(parts, text="a\u4f60z", spans=spans)
    path = tmp_path / "report.html"
    write_report(path, [one], table([one]), title="t")
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(path.as_uri())
    tokens = page.locator("#text-0 .tok")
    tokens.nth(2).hover()
    assert tokens.all_text_contents() == ["a", "\u4f60", "", "z"]
    assert tokens.nth(2).bounding_box()["width"] > 4
    assert "goes on" in str(tokens.nth(2).get_attribute("aria-label"))
    assert page.inner_text("#panel .word") == "\u4f60"
    assert "Token 2 of the 2" in page.inner_text("#panel")
    page.close()


def test_switching_the_measure_recolours_tokens(watched: Watched) -> None:
    page = watched.page
    # nll rises along this text and entropy falls, so the ends swap their colours.
    first, last = colour(page, 1), colour(page, 7)
    assert first != last
    measure(page, "entropy")
    assert colour(page, 7) != last
    assert page.locator("#text-0 .tok").nth(1).get_attribute("data-step") == "7"
    assert "entropy" in str(page.locator("#scale").get_attribute("aria-label"))
    page.keyboard.press("ArrowRight")
    assert page.get_by_role("radio", name="rank").is_checked()
    assert page.locator("#text-0 .tok").nth(1).get_attribute("data-step") == "1"


def test_unscored_tokens_look_and_read_different(watched: Watched) -> None:
    page = watched.page
    first = page.locator("#text-0 .tok").first
    assert "no prediction" in str(first.get_attribute("aria-label"))
    assert first.get_attribute("data-step") is None
    prompt = page.locator("#text-1 .tok").first
    assert "prompt, not scored" in str(prompt.get_attribute("aria-label"))
    assert prompt.get_attribute("data-step") is None
    assert page.locator("#text-1 .tok.prompt").count() == 3


def test_hover_shows_numbers_and_alternatives(watched: Watched) -> None:
    page = watched.page
    page.locator("#text-0 .tok").nth(2).hover()
    panel = page.locator("#panel")
    facts = dict(
        zip(
            panel.locator("dt").all_text_contents(),
            panel.locator("dd").all_text_contents(),
            strict=True,
        )
    )
    assert facts == {"nll": "2 nats", "probability": "13.5%", "rank": "3", "entropy": "3.57 nats"}
    assert panel.locator(".alts .what").all_text_contents() == ["␣sat", "␣on", "␣the"]
    assert panel.locator(".alts .share").all_text_contents() == ["13.5%", "25.0%", "12.5%"]
    assert panel.locator(".alts .own .what").text_content() == "␣sat"
    wide, half = (panel.locator(".alts .track i").nth(i).bounding_box()["width"] for i in (1, 2))
    assert wide / half == pytest.approx(2, rel=0.05)


def test_keys_move_pin_and_let_go(watched: Watched) -> None:
    page = watched.page
    tokens = page.locator("#text-0 .tok")
    assert page.locator("#text-0 .tok[tabindex='0']").count() == 1
    tokens.first.focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowRight", "ArrowLeft"):
        page.keyboard.press(key)
    focused = page.locator(":focus")
    assert focused.text_content() == "sat"
    assert focused.get_attribute("tabindex") == "0"
    assert page.locator("#text-0 .tok[tabindex='0']").count() == 1
    assert "rank 3, entropy 3.57 nats" in str(focused.get_attribute("aria-label"))
    assert page.locator("#panel .word").text_content() == "␣sat"
    page.keyboard.press("Enter")
    assert focused.get_attribute("aria-pressed") == "true"
    assert "␣sat 13.5%" in str(page.locator("#live").text_content())
    tokens.nth(5).hover()
    page.keyboard.press("End")
    assert page.locator("#panel .word").text_content() == "␣sat"
    page.keyboard.press("Escape")
    assert page.locator(".tok[aria-pressed='true']").count() == 0
    page.keyboard.press("Home")
    assert page.locator("#panel .word").text_content() == "The"
    assert "made no prediction" in str(page.locator("#panel").text_content())


def test_headers_sort_the_table(watched: Watched) -> None:
    page = watched.page
    start = names(page)
    head = page.locator("#table thead th", has_text="min_k")
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert names(page) == start
    head.get_by_role("button").press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    # The undefined value stays last whichever way the others go.
    assert names(page) == [start[1], start[0], start[2]]
    page.locator("#table thead th", has_text="other").get_by_role("button").click()
    assert names(page) == [start[0], start[2], start[1]]
    assert page.locator("#table th[aria-sort='descending']").count() == 1
    page.locator("#table thead th.name button").click()
    assert names(page) == sorted(start)


def test_a_row_leads_to_its_heat_map(watched: Watched) -> None:
    page = watched.page
    page.locator("#text-2 summary").click()
    assert page.locator("#text-2").get_attribute("open") is None
    page.locator("#table tbody tr").nth(2).get_by_role("link").click()
    page.wait_for_selector("#text-2[open] .tok")
    assert page.locator("#text-2 summary").evaluate("el => el === document.activeElement")


def test_plots_are_drawn_and_described(watched: Watched) -> None:
    page = watched.page
    bars = page.locator("#histogram svg[role=img]")
    assert bars.locator("rect").count() > 3
    assert "26 tokens" in str(bars.locator("desc").text_content())
    assert "nll of a token (nats)" in str(bars.text_content())
    assert page.locator("#dots circle").count() == 3
    page.locator("#score").select_option(label="min_k")
    assert page.locator("#dots circle").count() == 2
    assert "1 without a value" in str(page.locator("#dots").text_content())
    assert "min_k (nats)" in str(page.locator("#dots").text_content())
    assert page.locator("#text-0 .curve .stem").count() == 7
    page.locator("#text-0 .tok").nth(3).hover()
    assert page.locator("#text-0 .cursor").get_attribute("visibility") == "visible"
    page.locator("#text-1 .tok").nth(3).hover()
    assert page.locator("#text-0 .cursor").get_attribute("visibility") == "hidden"


def test_23_no_script_of_a_text_runs_and_nothing_leaves_the_page(
    watched: Watched, report: str
) -> None:
    page = watched.page
    page.goto(report + "#text-2")
    page.reload()
    page.wait_for_selector("#text-2 .tok")
    tokens = page.locator("#text-2 .tok")
    assert tokens.all_text_contents() == [visible(w) for w in HOSTILE]
    for i in range(len(HOSTILE)):
        tokens.nth(i).focus()
    for name in ("entropy", "rank", "nll"):
        measure(page, name)
    for option in page.locator("#score option").all_text_contents():
        page.locator("#score").select_option(label=option)
    page.wait_for_timeout(200)
    assert page.evaluate("typeof window.__pwned") == "undefined"
    assert page.locator("img, iframe, main script").count() == 0
    assert page.locator("h1").text_content() == "<script>window.__pwned=1</script>"
    assert watched.requests
    assert {url.split("#")[0] for url in watched.requests} == {report}


def test_23_the_policy_stops_what_would_slip_in(browser: Any, report: str) -> None:
    page = browser.new_page()
    failed: dict[str, str] = {}
    page.on("requestfailed", lambda r: failed.update({r.url: r.failure}))
    page.goto(report)
    refused = page.evaluate(
        """async () => {
          const script = document.createElement("script");
          let trusted = "accepted";
          try { script.textContent = "window.__pwned = 1"; document.body.append(script); }
          catch (error) { trusted = error.name; }
          const image = document.createElement("img");
          const blocked = new Promise((done) => {
            image.onerror = () => done("blocked");
            image.onload = () => done("loaded");
          });
          image.src = "https://example.com/x.png";
          document.body.append(image);
          return [trusted, await blocked, typeof window.__pwned];
        }"""
    )
    page.close()
    assert refused == ["TypeError", "blocked", "undefined"]
    # It failed because of the policy, not for want of a network.
    assert failed == {"https://example.com/x.png": "csp"}


def test_dark_mode_follows_the_system_and_the_button(browser: Any, report: str) -> None:
    page = browser.new_page(color_scheme="dark")
    page.goto(report)
    page.wait_for_selector("#text-0 .tok")
    back = "getComputedStyle(document.documentElement).backgroundColor"
    dark, warm = page.evaluate(back), colour(page, 7)
    button = page.get_by_role("button", name="Theme")
    button.click()
    light = page.evaluate(back)
    assert sum(_rgb(dark)) < 150 < 600 < sum(_rgb(light))
    assert colour(page, 7) != warm
    button.click()
    assert page.evaluate(back) == dark
    page.close()


def _rgb(colour: str) -> list[int]:
    return [int(x) for x in colour[4:-1].split(",")]


def test_narrow_screens_scroll_only_the_table(browser: Any, report: str) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto(report)
    page.wait_for_selector("#text-0 .tok")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert not page.locator("#panel").is_visible()
    page.locator("#text-0 .tok").nth(2).click()
    assert page.locator("#panel").is_visible()
    page.get_by_role("button", name="Unpin").click()
    assert not page.locator("#panel").is_visible()
    page.close()


def test_long_texts_are_built_as_they_are_read(browser: Any, tmp_path: Path) -> None:
    long, short = trace(PLAIN[:6] * 700, id="long", level=0.001), trace(id="short")
    traces = [long, *[short] * 40]
    write_report(tmp_path / "r.html", traces, table(traces), title="t")
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto((tmp_path / "r.html").as_uri())
    page.wait_for_selector("#text-0 .tok")
    built = page.locator(".tok").count()
    assert built < 4200
    assert page.locator("#text-40 .tok").count() == 0
    page.get_by_role("button", name="Show more tokens").scroll_into_view_if_needed()
    page.locator("#text-0 .tok").nth(built).wait_for(state="attached")
    page.close()
