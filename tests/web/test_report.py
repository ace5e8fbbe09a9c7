"""The report as a file: what it holds, what it escapes, what it may run."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import html
import json
import math
import re
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from nll import BadInput
from nll.trace import Trace
from nll.web import report_html, write_report
from nll.web._scores import columns
from nll.web._text import number, significant, visible
from nll.web._traces import alternatives_kept, nll_histogram
from tests.web.samples import HOSTILE, PLAIN, meta, sample, table, trace


class Page(HTMLParser):
    """Tags with attributes, and the content of script and style elements."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.code: list[tuple[dict[str, str | None], str]] = []
        self.styles: list[str] = []
        self._in = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in = tag
        if tag == "script":
            self.code.append((dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        self._in = ""

    def handle_data(self, data: str) -> None:
        if self._in == "script":
            attrs, before = self.code[-1]
            self.code[-1] = (attrs, before + data)
        elif self._in == "style":
            self.styles.append(data)

    def island(self, id: str) -> dict[str, object]:
        found = next(code for attrs, code in self.code if attrs.get("id") == id)
        return json.loads(found)


@pytest.fixture(scope="module")
def source() -> str:
    traces, scores = sample()
    return report_html(traces, scores, title="Texts & <b>more</b>")


@pytest.fixture(scope="module")
def page(source: str) -> Page:
    return Page(source)


def test_policy_names_each_script_and_style_and_nothing_else(page: Page) -> None:
    policy = next(
        str(a["content"]) for t, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"
    )
    rules = {r.split()[0]: r.split()[1:] for r in policy.split(";")}
    run = [code for attrs, code in page.code if "type" not in attrs]

    def hashed(code: str) -> str:
        digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
        return f"'sha256-{digest}'"

    assert rules["default-src"] == ["'none'"]
    assert rules["script-src"] == [hashed(code) for code in run]
    assert rules["style-src"] == [hashed(code) for code in page.styles]
    assert "unsafe" not in policy
    assert "http" not in policy
    assert len(run) == 4
    assert len(page.styles) == 1


def test_23_hostile_text_stays_text_in_the_file(source: str, page: Page) -> None:
    names = {t for t, _ in page.tags}
    assert not names & {"img", "iframe", "object", "embed", "link", "base", "form"}
    assert not [a for _, attrs in page.tags for a in attrs if a.startswith("on") or a == "style"]
    assert not [attrs for t, attrs in page.tags if t == "script" and "src" in attrs]
    assert "<b>more" not in source
    assert "Texts &amp; &lt;b&gt;more&lt;/b&gt;" in source
    assert "{{ 7 * 7 }}" in source
    assert not re.search(
        "[\x00-\x08\x0b-\x1f\x7f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800]", source
    )
    for attrs, code in page.code:
        if "type" in attrs:
            assert not re.search("[<>&]", code)


def test_23_strings_come_back_whole_from_the_islands(page: Page) -> None:
    strings = page.island("data")["strings"]
    assert isinstance(strings, list)
    text = page.island("data-2")
    shown = [strings[i] for i in text["s"]]
    assert shown == [visible(w) for w in HOSTILE]
    assert shown[2] == "<!--<script>"
    assert shown[3] == "⟨U+202E⟩evil⟨U+2066⟩"
    assert shown[4] == "⟨U+001B⟩[31mred"
    assert shown[6] == "⟨U+D800⟩"
    assert len(strings) == len(set(strings))


def test_numbers_of_a_text(page: Page) -> None:
    text = page.island("data-0")
    assert text["l"] == [None, 1, 2, 3, 4, 5, 6, 7]
    assert text["r"][:3] == [None, 2, 3]
    assert text["h"][0] == 5
    assert text["p"] == 0
    # The token itself first, then three others; 1e-6 is below what is worth sending.
    assert [p for p in text["a"][1][1::2]] == [5000, 2500, 1250]
    assert text["m"] == [0] * 8
    assert page.island("data-1")["p"] == 3


def test_a_token_outside_its_alternatives_is_marked_so() -> None:
    one = trace()
    moved = dataclasses.replace(one, ids=np.roll(one.ids, 4))
    text = Page(report_html([moved], table([moved]), title="t")).island("data-0")
    assert text["m"] == [-1] * 8


def test_alternatives_without_a_string_show_their_id() -> None:
    one = trace(vocab={})
    strings = Page(report_html([one], table([one]), title="t")).island("data")["strings"]
    assert strings[0] == "The"
    assert "#1" in strings


def test_a_character_of_several_tokens_stands_at_the_first() -> None:
    # A letter, a character of three tokens, one of two that the second shares with a letter.
    parts = trace(("a", "b", "c", "d", "e", "f"))
    spans = np.array([[0, 1], [1, 2], [1, 2], [1, 2], [2, 3], [2, 4]])
    one = dataclasses.replace(parts, text="a\u4f60\u00e9z", spans=spans)
    page = Page(report_html([one], table([one]), title="t"))
    strings = page.island("data")["strings"]
    assert [strings[i] for i in page.island("data-0")["s"]] == [
        "a",
        "\u4f60",
        "",
        "",
        "\u00e9",
        "z",
    ]


def test_table_explains_columns_and_undefined_values(source: str) -> None:
    assert source.count("<td") == 3 * 5
    assert 'title="What &lt;b&gt;min_k&lt;/b&gt; is."' in source
    assert "high = member" in source
    assert '<a href="https://arxiv.org/abs/2310.16789" rel="noopener noreferrer">' in source
    assert "Range: −∞ to 0" in source
    assert "Options: k = 0.2" in source
    assert 'aria-label="undefined: no min_k &lt;here&gt;"' in source
    assert 'href="#text-2"' in source


def test_means_are_those_of_the_scored_tokens() -> None:
    traces, scores = sample()
    mean, perplexity, *_ = columns(traces, scores)
    assert [c.value for c in mean.cells[:2]] == [4, 2.5]
    assert perplexity.cells[1].value == significant(math.exp(2.5), 6)


def test_the_tables_own_mean_nll_is_not_shown_twice() -> None:
    one = trace()
    labels = [c.label for c in columns([one], table([one], mean_nll=[1.0], lrr=[2.0]))]
    assert labels == ["perplexity", "mean_nll", "lrr"]


def test_scores_of_tokens_show_their_mean() -> None:
    field = pa.field("surprisal", pa.list_(pa.float64()), metadata={b"nll": json.dumps(meta("s"))})
    scores = pa.table([[[1.0, math.nan, 3.0]]], schema=pa.schema([field]))
    column = columns([trace()], scores)[-1]
    assert column.cells[0].value == 2
    assert "mean" in column.note


def test_a_text_without_scored_tokens_is_undefined_not_zero() -> None:
    empty = [trace((), id=None), trace(("one",), bos=False)]
    found = columns(empty, table(empty))
    assert [c.reason for c in found[0].cells] == ["no token was scored"] * 2
    page = Page(report_html(empty, table(empty), title="t"))
    assert page.island("data")["nll"] is None
    assert page.island("data-1")["l"] == [None]


def test_no_texts_at_all() -> None:
    source = report_html([], table([]), title="Nothing")
    assert "no texts in this report" in source
    assert "<details" not in source


def test_a_trace_of_logp_alone() -> None:
    bare = Trace(logp=np.array([-1.0, -math.inf, math.nan]))
    page = Page(report_html([bare], table([bare]), title="t"))
    text = page.island("data-0")
    assert set(text) == {"s", "l", "p"}
    assert text["l"] == [1, "Infinity", None]
    assert page.island("data")["strings"] == ["[1]", "[2]", "[3]"]


def test_different_origins_are_told_apart() -> None:
    one = trace()
    two = dataclasses.replace(one, provenance=dataclasses.replace(one.provenance, bos=None))
    source = report_html([one, two, two], table([one, two, two]), title="t")
    assert "nothing is put in front" in source
    assert "1 text</h3>" in source
    assert "2 texts</h3>" in source


def test_a_table_of_another_length_is_refused() -> None:
    traces, scores = sample()
    with pytest.raises(BadInput, match="3 rows for 2 traces"):
        report_html(traces[:2], scores, title="t")


@pytest.mark.parametrize(
    ("paper", "address"),
    [
        ("2310.16789", "https://arxiv.org/abs/2310.16789"),
        ("10.1162/tacl_a_00123", "https://doi.org/10.1162/tacl_a_00123"),
        ("https://example.org/x", "https://example.org/x"),
        ("javascript:alert(1)", None),
        ('https://e.org/"onclick=x', None),
        ("Brown et al. 2020", None),
    ],
)
def test_only_known_kinds_of_papers_become_links(paper: str, address: str | None) -> None:
    field = pa.field(
        "s", pa.float64(), metadata={b"nll": json.dumps({**meta("s"), "paper": paper})}
    )
    scores = pa.table([[1.0]], schema=pa.schema([field]))
    source = report_html([trace()], scores, title="t")
    links = [a["href"] for t, a in Page(source).tags if t == "a" and "rel" in a]
    assert links == ([address] if address else [])
    assert address or html.escape(paper, quote=False) in source.replace("&#34;", '"')


def test_size_per_token_is_bounded() -> None:
    rng = np.random.default_rng(0)
    words = tuple(f" w{i}" for i in rng.integers(0, 400, 2000))
    k = 20
    noisy = trace(
        words,
        level=0.0123456789,
        entropy=rng.gamma(2, 2, 2000),
        top_ids=rng.integers(0, 2000, (2000, k)),
        top_logp=np.log(np.sort(rng.dirichlet(np.ones(k), 2000))[:, ::-1]),
    )
    few, many = ([dataclasses.replace(noisy, id=f"{i}") for i in range(n)] for n in (1, 11))
    sizes = [len(report_html(t, table(t), title="t")) for t in (few, many)]
    assert (sizes[1] - sizes[0]) / 20_000 < 120
    assert alternatives_kept(10**6) < alternatives_kept(10**5) < alternatives_kept(10**3)


def test_histogram_counts_every_scored_token() -> None:
    traces, _ = sample()
    values = np.concatenate([-t.values("logp") for t in traces])
    found = nll_histogram(values)
    assert found is not None
    scored = sum(t.n_scored for t in traces)
    assert sum(found["counts"]) == found["tokens"] == scored
    assert found["counts"][0] == int((values < found["width"]).sum())
    assert found["median"] == significant(float(np.median(values)))


def test_numbers_to_read() -> None:
    got = [number(x) for x in (0, 1.23456, -12345.6, 1e-7, math.inf, math.nan, 20)]
    assert got == ["0", "1.235", "−12,346", "1e−07", "∞", "–", "20"]


def test_joiners_stay_inside_words_and_show_alone() -> None:
    assert visible("می\u200cخواهم") == "می\u200cخواهم"
    assert visible("\u200d") == "⟨U+200D⟩"


def test_every_colour_step_can_be_read() -> None:
    css = (files("nll.web") / "static" / "report.css").read_text("utf-8")
    pairs = dict(re.findall(r"--(\w+): light-dark\((#\w+, #\w+)\)", css))
    uses = re.findall(
        r'\[data-step="\d"\] \{ background: var\(--(\w+)\); color: var\(--(\w+)\)', css
    )
    assert len(uses) == 9
    texts = [("page", "ink"), ("page", "soft"), ("card", "soft"), ("page", "link"), ("wash", "ink")]
    for theme in (0, 1):
        shades = []
        for back, front in [*uses, *texts]:
            a, b = (_luminance(pairs[c].split(", ")[theme]) for c in (back, front))
            assert (max(a, b) + 0.05) / (min(a, b) + 0.05) >= 4.5, (theme, back, front)
            shades.append(a)
        # Even without hue the order of the steps can be seen.
        assert shades[:9] == sorted(shades[:9], reverse=theme == 0)


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def test_scripts_never_build_markup_from_strings() -> None:
    for name in ("base.js", "plots.js", "table.js", "report.js"):
        code = (files("nll.web") / "static" / name).read_text("utf-8")
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|"
            r"fetch\(|XMLHttpRequest|import\(|</script",
            code,
        )


def test_write_report_replaces_the_file_whole(tmp_path: Path) -> None:
    traces, scores = sample()
    path = tmp_path / "r.html"
    path.write_text("old")
    write_report(path, traces, scores, title="New")
    assert path.read_text("utf-8") == report_html(traces, scores, title="New")
    assert [p.name for p in tmp_path.iterdir()] == ["r.html"]


def test_write_report_says_where_it_cannot_write(tmp_path: Path) -> None:
    one = trace(PLAIN)
    with pytest.raises(BadInput, match="no folder"):
        write_report(tmp_path / "missing" / "r.html", [one], table([one]), title="t")
