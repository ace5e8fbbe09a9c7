"""The page: what it is made of, what it asks, and how it looks and behaves in Chromium."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nll
from tests.serve.conftest import Client, running

CHROMIUM = shutil.which("chromium") or (
    "/usr/bin/chromium" if Path("/usr/bin/chromium").exists() else None
)
HOSTILE = '</script><img src=x onerror="window.__pwned=1"> \u202eab'
TOKEN = "planted-secret-4711"


def test_the_page_names_no_other_origin_and_runs_nothing_inline(server: Client) -> None:
    found = server.get("/")
    html = found.body.decode()
    policy = found.headers["content-security-policy"]
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    assert "http:" not in html
    assert "https:" not in html
    assert "<style" not in html
    assert not re.search(r"<[^>]*\son\w+=", html)
    for part in html.split("<script")[1:]:
        assert part.startswith(' src="/static/')
    for name in ("base.js", "table.js", "serve.js", "report.css", "serve.css"):
        asset = server.get(f"/static/{name}")
        assert asset.status == 200
        assert asset.headers["x-content-type-options"] == "nosniff"
    assert "innerHTML" not in server.get("/static/serve.js").body.decode()


def test_what_the_page_asks(server: Client) -> None:
    sides = [{"text": "the cat"}, {"text": "cat", "prompt": "the "}]
    found = server.post("/page/read", {"sides": sides}).json
    one, two = found["sides"]
    (trace,) = nll.load("testing:bigram").trace(["the cat"])
    assert one["packed"]["l"][0] is None
    assert one["packed"]["l"][1:] == pytest.approx(trace.nll[1:].tolist(), rel=1e-3, abs=1e-3)
    assert two["packed"]["p"] == 4
    for column in found["columns"]:
        assert len(column["cells"]) == 2
        assert all(c["reason"] for c in column["cells"] if c["value"] is None)
    empty = server.post("/page/read", {"sides": [{"text": ""}, {"text": "a b"}]}).json
    assert "empty" in empty["sides"][0]["rejected"]
    assert empty["columns"][0]["cells"][0]["value"] is None
    assert server.post("/page/read", {"sides": [{"text": "a", "model": 1}]}).status == 400


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with sync_api.sync_playwright() as play:
        opened = play.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def two() -> Iterator[Client]:
    second = nll.testing.table_model(np.roll(nll.testing.bigram_table(), 1, 0))
    with running(reference=second, token=TOKEN) as client:
        yield client


class Opened:
    def __init__(self, browser: Any, client: Client, **options: Any) -> None:
        self.page = browser.new_page(viewport={"width": 1280, "height": 900}, **options)
        self.page.set_default_timeout(15_000)
        self.requests: list[str] = []
        self.wrong: list[str] = []
        self.page.on("request", lambda r: self.requests.append(r.url))
        self.page.on("pageerror", lambda e: self.wrong.append(f"error {e}"))
        self.page.on("console", lambda m: self.wrong.append(m.text) if m.type == "error" else None)
        self.base = f"http://127.0.0.1:{client.port}/"
        self.page.goto(self.base)


@pytest.fixture
def opened(browser: Any, two: Client) -> Iterator[Opened]:
    found = Opened(browser, two)
    found.page.fill("#token", TOKEN)
    yield found
    found.page.close()
    assert found.wrong == []
    assert all(url.startswith(found.base) for url in found.requests)


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium on PATH or at /usr/bin/chromium")
class TestBrowser:
    def test_a_text_is_read(self, opened: Opened) -> None:
        page = opened.page
        page.fill("#text-a", "the cat sat on it.")
        page.click("#send")
        page.wait_for_selector("#sides .tok")
        assert page.inner_text("#sides .flow") == "the cat sat on it."
        page.hover("#sides .tok >> nth=5")
        assert "Token 6 of 18" in page.inner_text("#panel")
        page.keyboard.press("Escape")
        page.focus("#sides .tok >> nth=0")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
        assert page.get_attribute("#sides .tok >> nth=1", "aria-pressed") == "true"
        assert page.locator("#scores tbody tr").count() > 20
        page.check("input[name=measure][value=rank]", force=True)
        assert "rank" in str(page.get_attribute("#scale", "aria-label"))

    def test_two_models_and_two_answers(self, opened: Opened) -> None:
        page = opened.page
        page.fill("#text-a", "the cat")
        page.check("input[name=compare][value=model]", force=True)
        page.click("#send")
        page.wait_for_selector(".sides.two")
        names = page.locator(".side h3").all_inner_texts()
        assert names == ["testing:bigram", "testing:bigram#reference"]
        means = page.locator(".side .sums b").all_inner_texts()
        assert means[0] != means[1]
        page.check("input[name=kind][value=answer]", force=True)
        page.check("input[name=compare][value=text]", force=True)
        for side, text in (("a", "cat"), ("b", "dog")):
            page.fill(f"#prompt-{side}", "the ")
            page.fill(f"#text-{side}", text)
        page.click("#send")
        page.wait_for_selector(".side h3:has-text('First text')")
        assert page.locator(".side >> nth=0 >> .tok.prompt").count() == 4
        assert page.locator("#scores thead th").all_inner_texts()[-1] == "second − first"

    def test_23_hostile_text_stays_text(self, opened: Opened) -> None:
        page = opened.page
        page.fill("#text-a", HOSTILE)
        page.click("#send")
        page.wait_for_selector("#sides .tok")
        assert page.evaluate("window.__pwned") is None
        assert page.locator("#result img").count() == 0

    def test_what_is_refused_is_said(self, browser: Any, two: Client) -> None:
        found = Opened(browser, two)
        found.page.fill("#text-a", "abc")
        found.page.click("#send")
        found.page.wait_for_selector("#status.wrong")
        assert "token" in found.page.inner_text("#status")
        assert found.page.is_hidden("#result")
        found.page.close()

    @pytest.mark.parametrize("width", [360, 1280])
    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_nothing_is_wider_than_the_window(
        self, browser: Any, two: Client, width: int, scheme: str
    ) -> None:
        found = Opened(browser, two, color_scheme=scheme)
        page = found.page
        page.set_viewport_size({"width": width, "height": 800})
        page.fill("#token", TOKEN)
        page.fill("#text-a", "a" * 300 + " who is it? it is i. " * 10)
        page.check("input[name=compare][value=model]", force=True)
        page.click("#send")
        page.wait_for_selector("#sides .tok")
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= width
        ground = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        assert (sum(map(int, ground[4:-1].split(","))) < 150) == (scheme == "dark")
        page.close()
        assert found.wrong == []
