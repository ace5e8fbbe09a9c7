"""`nll eval`: numbers, joins, directions, hostile names, and one line for each wrong use."""

from __future__ import annotations

import csv
import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nll import metrics

HOSTILE = '</title><script>window.x=1</script>"\u202e\x1b[31m=1+1'


@pytest.fixture
def table(tmp_path):
    """Sixty rows: a good score, its negative, a nan, tokens, a text that gives the label away."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(60):
        y = i % 2
        rows.append(
            {"id": f"t{i}", "tokens": 10 + i % 7, "min_k_prob": float(rng.normal(2 * y)),
             "prob": float(rng.random()), "label": y, "half": "ab"[i % 4 > 1],
             "text": f"word number {i % 3} " + ("new" if y else "old")}
        )  # fmt: skip
    rows[5]["min_k_prob"] = math.nan
    for row in rows:
        row["human_like"] = -row["min_k_prob"]
    path = tmp_path / "s.parquet"
    held = pa.Table.from_pylist(rows)
    meta = {b"nll": json.dumps({"higher_means": "non-member"}).encode()}
    place = held.schema.get_field_index("human_like")
    field = held.schema.field(place).with_metadata(meta)
    pq.write_table(held.cast(held.schema.set(place, field)), path)
    return path, rows


def results(path) -> dict[tuple[str, str], dict]:
    found = json.loads(path.read_text())
    return {(r["score"], r["group"]): r for r in found["results"]}


def read_csv(path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_numbers_are_those_of_the_metrics(nll_here, table, tmp_path) -> None:
    path, rows = table
    ran = nll_here("eval", path, "--positive", "member", "-o", "e.json")
    assert ran.code == 0
    found = results(tmp_path / "e.json")
    kept = [r for r in rows if not math.isnan(r["min_k_prob"])]
    y, s = [r["label"] for r in kept], [r["min_k_prob"] for r in kept]
    ours = found["min_k_prob", ""]
    assert (ours["n"], ours["dropped"], ours["positives"]) == (59, 1, 29)
    assert ours["auroc"] == metrics.auroc(y, s)
    interval = metrics.bootstrap(metrics.auroc, y, s, stratify=y)
    assert (ours["auroc_low"], ours["auroc_high"]) == (interval.low, interval.high)
    assert ours["tpr_at_5_fpr"] == metrics.tpr_at_fpr(y, s, 0.05)
    assert ours["tpr_at_1_fpr"] == metrics.tpr_at_fpr(y, s, 0.01)
    assert ours["prr"] == metrics.prr(s, [1 - v for v in y])
    assert set(found) == {
        (n, "")
        for n in ("min_k_prob", "human_like", "prob", "length in tokens", "random", "bag of words")
    }
    assert found["bag of words", ""]["auroc"] == 1, "the text gives the label away"
    lengths = metrics.auroc([r["label"] for r in rows], [r["tokens"] for r in rows])
    assert found["length in tokens", ""]["auroc"] == lengths
    assert "min_k_prob" in ran.out
    assert f"{ours['auroc']:.3f}" in ran.out
    assert "positive means member: 30 positive, 30 negative rows" in ran.err
    assert "These numbers hold for texts like those" in ran.err


def test_a_score_of_the_other_side_is_turned_around(nll_here, table, tmp_path) -> None:
    path, _ = table
    nll_here("eval", path, "--positive", "member", "-o", "e.json")
    found = results(tmp_path / "e.json")
    assert found["human_like", ""]["flipped"]
    assert found["human_like", ""]["auroc"] == found["min_k_prob", ""]["auroc"]
    assert not found["min_k_prob", ""]["flipped"]
    nll_here("eval", path, "-o", "plain.json")
    plain = results(tmp_path / "plain.json")
    assert not plain["human_like", ""]["flipped"]
    assert plain["human_like", ""]["auroc"] == pytest.approx(1 - plain["min_k_prob", ""]["auroc"])


def test_groups_and_chosen_scores(nll_here, table, tmp_path) -> None:
    path, rows = table
    ran = nll_here("eval", path, "--group", "half", "--score", "prob", "-o", "e.csv")
    assert ran.code == 0
    cells = read_csv(tmp_path / "e.csv")
    mine = {c["group"]: c for c in cells if c["score"] == "prob"}
    assert set(mine) == {"", "a", "b"}
    for group in "ab":
        held = [r for r in rows if r["half"] == group]
        value = metrics.auroc([r["label"] for r in held], [r["prob"] for r in held])
        assert float(mine[group]["auroc"]) == value
    assert not any(c["score"] == "min_k_prob" for c in cells)


def test_labels_of_another_file_and_of_words(nll_here, table, tmp_path) -> None:
    path, rows = table
    words = [{"id": r["id"], "made_by": "machine" if r["label"] else "human"} for r in rows[::-1]]
    del words[:4]
    with (tmp_path / "l.csv").open("w") as file:
        writer = csv.DictWriter(file, ["id", "made_by"])
        writer.writeheader()
        writer.writerows(words)
    ran = nll_here("eval", path, "--label", "made_by", "--labels", "l.csv", "--score", "prob",
                   "-o", "e.json")  # fmt: skip
    assert "positive means machine: 28 positive, 28 negative rows, 4 without a label" in ran.err
    kept = rows[:56]
    value = metrics.auroc([r["label"] for r in kept], [r["prob"] for r in kept])
    assert results(tmp_path / "e.json")["prob", ""]["auroc"] == value
    nll_here("eval", path, "--label", "made_by", "--labels", "l.csv", "--score", "prob",
             "--positive", "human", "-o", "e.json")  # fmt: skip
    assert results(tmp_path / "e.json")["prob", ""]["auroc"] == pytest.approx(1 - value)


def test_text_and_group_may_stand_beside_the_labels(nll_here, tmp_path) -> None:
    mine = [{"id": i, "x": float(i % 3), "label": 0} for i in range(40)]
    theirs = [
        {"id": i, "label": i % 2, "text": "new one" if i % 2 else "old one", "g": i // 20, "y": i}
        for i in range(40)
    ]
    for name, rows in (("s", mine), ("l", theirs)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    ran = nll_here("eval", "s.jsonl", "--labels", "l.jsonl", "--group", "g", "-o", "e.json")
    assert ran.code == 0, ran.err
    found = results(tmp_path / "e.json")
    assert found["bag of words", ""]["auroc"] == 1
    assert {group for _, group in found} == {"", "0", "1"}
    assert ("y", "") not in found, "numbers of the label file are no scores"
    value = metrics.auroc([r["label"] for r in theirs], [r["x"] for r in mine])
    assert found["x", ""]["auroc"] == value


def test_formats_agree_and_runs_repeat(nll_here, tmp_path) -> None:
    rows = [{"x": i % 5 + i % 2, "label": i % 2} for i in range(20)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with (tmp_path / "a.csv").open("w") as file:
        writer = csv.DictWriter(file, ["x", "label"])
        writer.writeheader()
        writer.writerows(rows)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    outs = [nll_here("eval", f"a.{s}").out for s in ("jsonl", "csv", "parquet", "jsonl")]
    assert len(set(outs)) == 1
    assert "nan" not in outs[0]


class Page(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append(tag)
        self.links += [v or "" for k, v in attrs if k in ("src", "href", "style", "onload")]


def test_the_page_is_whole_and_escapes_everything(nll_here, tmp_path) -> None:
    rows = [{HOSTILE: (i % 7) / 7, "label": i % 2, "g": HOSTILE} for i in range(30)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    ran = nll_here("eval", "a.jsonl", "--group", "g", "-o", "e.html")
    assert ran.code == 0, ran.err
    assert not {"\x1b", "\u202e"} & set(ran.out)
    html = (tmp_path / "e.html").read_text(encoding="utf-8")
    page = Page(html)
    assert "script" not in page.tags
    assert page.tags.count("svg") >= 6
    assert {"table", "path", "circle"} <= set(page.tags)
    assert all(link.startswith("#") for link in page.links)
    assert "\u202e" not in html
    assert "default-src &#39;none&#39;" in html
    assert re.search(r'<path class="curve" d="M[\d. ]+ L', html)
    nll_here("eval", "a.jsonl", "--group", "g", "-o", "e.csv")
    assert read_csv(tmp_path / "e.csv")[0]["score"] == HOSTILE


def test_undefined_is_told(nll_here, tmp_path) -> None:
    rows = [{"x": None if i % 2 else 1.0 * i, "z": float(i), "label": i % 2} for i in range(10)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    nll_here("eval", "a.jsonl", "-o", "e.json")
    found = results(tmp_path / "e.json")["x", ""]
    assert found["auroc"] is None
    assert found["dropped"] == 5
    assert "two classes" in found["note"]


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["no.csv"], "no.csv: no such file"),
        (["a.txt"], "is no table"),
        (["a.csv", "--label", "y"], "has no column 'y'"),
        (["a.csv", "--score", "zz"], "has no column 'zz'"),
        (["a.csv", "--score", "name"], "'abc', not a number"),
        (["a.csv", "--group", "zz"], "has no column 'zz'"),
        (["a.csv", "--label", "three"], "two values; there are 3"),
        (["a.csv", "--label", "name"], "two values"),
        (["a.csv", "--label", "sides"], "--positive LABEL"),
        (["a.csv", "--positive", "mebmer"], "neither a label"),
        (["a.csv", "--label", "none"], "no row"),
        (["a.csv", "-o", "x.pdf"], ".html or .json or .csv"),
        (["a.csv", "-o", "a.csv"], "also an input"),
        (["a.csv", "--labels", "b.csv", "--on", "name"], "no 'name' of a.csv occurs"),
        (["a.csv", "--labels", "c.csv", "--on", "name"], "two labels"),
        (["a.csv", "--labels", "b.csv", "--on", "key"], "has no column 'key'"),
        (["bad.jsonl"], "bad.jsonl:2"),
        (["d.csv"], "no column of numbers"),
        (["twice.csv"], "two columns called 'x'"),
    ],
)
def test_wrong_uses_are_one_line(nll_here, tmp_path, args, told) -> None:
    (tmp_path / "a.csv").write_text(
        "x,name,label,three,sides,none\n1,abc,0,1,left,\n2,abc,1,2,right,\n3,abc,0,3,left,\n"
    )
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "b.csv").write_text("name,label\nother,1\nelse,0\n")
    (tmp_path / "c.csv").write_text("name,label\nabc,1\nabc,0\n")
    (tmp_path / "d.csv").write_text("name,label\nabc,1\nabc,0\n")
    (tmp_path / "twice.csv").write_text("x,x,label\n1,1,1\n1,2,0\n")
    (tmp_path / "bad.jsonl").write_text('{"x": 1, "label": 0}\n{"x": \n')
    ran = nll_here("eval", *args)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("nll: ")
    assert ran.err.count("\n") == 1
    assert told in ran.err
