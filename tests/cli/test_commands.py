"""What the commands print, write and return; reliability check 18 and the list of wrong uses."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import subprocess
import sys
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import nll
from nll import read_traces

HOSTILE = "</script>\x1b[31mred\u202e[bold]x"


@pytest.fixture
def texts(tmp_path):
    rows = [{"id": f"t{i}", "text": f"some text {i}"} for i in range(3)]
    path = tmp_path / "in.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def one_line(ran, code: int = 2) -> str:
    """The one line of an error, after checking that it is one and nothing else was said."""
    assert ran.code == code, ran
    assert ran.out == ""
    assert ran.err.startswith("nll: ")
    assert ran.err.count("\n") == 1
    assert "Traceback" not in ran.err
    return ran.err


def test_score_writes_by_suffix(nll_here, texts, tmp_path) -> None:
    for suffix in ("parquet", "jsonl", "csv"):
        ran = nll_here(
            "score", texts, "--score", "mean_nll", "--score", "surp", "-o", f"o.{suffix}"
        )
        assert (ran.code, ran.out) == (0, "")
        assert ran.err == f"nll: 3 texts scored; wrote o.{suffix}\n"
    table = pq.read_table(tmp_path / "o.parquet")
    assert table.column_names == ["id", "tokens", "mean_nll", "surp", "undefined"]
    assert json.loads(table.schema.field("mean_nll").metadata[b"nll"])["unit"] == "nats"
    rows = [json.loads(x) for x in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert [r["mean_nll"] for r in rows] == table["mean_nll"].to_pylist()
    cells = list(csv.DictReader((tmp_path / "o.csv").read_text().splitlines()))
    assert [float(c["mean_nll"]) for c in cells] == table["mean_nll"].to_pylist()
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "in.jsonl",
        "o.csv",
        "o.jsonl",
        "o.parquet",
    ]


def test_files_say_nan_and_infinity_so_that_readers_understand(tmp_path) -> None:
    from nll.runs._output import write_csv, write_jsonl

    values = pa.array([float("nan"), float("inf"), float("-inf"), None])
    lists = pa.array([[1.0, float("nan")], [], None, [2.0]])
    table = pa.table(
        {"id": ["=1+1", "-a", "\u202e\n", "b"], "x": values, "y": lists,
         "undefined": ['{"x": "why"}', None, None, None]}
    )  # fmt: skip
    write_jsonl(tmp_path / "o.jsonl", table.to_batches(), table.schema)
    rows = [
        json.loads(x) for x in (tmp_path / "o.jsonl").read_text(encoding="utf-8").split("\n")[:4]
    ]
    assert [r["x"] for r in rows] == [None, float("inf"), float("-inf"), None]
    assert rows[0] == {"id": "=1+1", "x": None, "y": [1.0, None], "undefined": {"x": "why"}}
    write_csv(tmp_path / "o.csv", table.to_batches(), table.schema)
    cells = list(csv.reader(io.StringIO((tmp_path / "o.csv").read_bytes().decode())))
    assert [c[0] for c in cells] == ["id", "'=1+1", "'-a", "\u202e\n", "b"]
    assert [c[1] for c in cells] == ["x", "nan", "inf", "-inf", ""]


def test_score_prints_a_table_that_the_terminal_cannot_obey(nll_here, tmp_path) -> None:
    (tmp_path / "in.jsonl").write_text(json.dumps({"id": HOSTILE, "text": "abc"}))
    ran = nll_here("score", "in.jsonl", "--score", "mean_nll")
    assert ran.code == 0
    assert "</script>[31mred[bold]x" in ran.out
    assert not {"\x1b", "\u202e"} & set(ran.out)
    assert ran.out.split()[:3] == ["id", "tokens", "mean_nll"]


def test_traces_are_stored_and_scored_without_a_model(
    nll_here, texts, tmp_path, monkeypatch
) -> None:
    assert nll_here("trace", texts, "--top-k", "4").code == 0
    traces = list(read_traces(tmp_path / "traces.parquet"))
    assert [t.id for t in traces] == ["t0", "t1", "t2"]
    assert traces[0].top_ids.shape[1] == 4
    monkeypatch.setattr(nll.models, "load", None)
    ran = nll_here("score", "traces.parquet", "--score", "mean_nll", "-o", "o.jsonl")
    assert ran.code == 0
    assert len((tmp_path / "o.jsonl").read_text().splitlines()) == 3
    assert nll_here("report", "traces.parquet").code == 0
    for needless in (["--model", "m"], ["--text-column", "t"], ["--n-samples", "3"]):
        told = one_line(nll_here("score", "traces.parquet", *needless))
        assert f"holds traces, which need no model and no columns; leave out {needless[0]}" in told
    assert (tmp_path / "report.html").stat().st_size > 1_000
    both = one_line(nll_here("score", "traces.parquet", texts, "--score", "mean_nll"))
    assert "holds traces and" in both


def test_trace_keeps_what_named_scores_need(nll_here, texts, tmp_path) -> None:
    score = "self_certainty"
    assert nll_here("trace", texts).code == 0
    missing = one_line(nll_here("score", "traces.parquet", "--score", score))
    assert "trace the text again with" in missing
    fields = []
    nll.models.load, real = None, nll.models.load

    def load(*args: object, **options: object):
        model = real(*args, **options)
        inner = model.trace
        model.trace = lambda texts, **o: fields.append(o["fields"]) or inner(texts, **o)
        return model

    nll.models.load = load
    assert nll_here("trace", texts, "--score", score).code == 0
    assert fields[0].kl_uniform
    assert fields[0].top_k == 10


def test_report_prints_and_writes(nll_here, texts, tmp_path) -> None:
    ran = nll_here("report", texts, "-o", "r.html", "--score", "lrr", "--score", "mean_nll")
    assert ran.code == 0
    assert ran.out.split("\n")[0].split() == ["id", "tokens", "mean_nll", "lrr"]
    assert len(ran.out.splitlines()) == 4
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert all(x in page for x in ("t0", "t1", "t2", "lrr"))


def test_a_long_table_is_printed_in_parts_that_line_up(nll_here, tmp_path) -> None:
    rows = [{"id": f"t{i}" + "x" * (i == 900), "text": "text " * (1 + i % 7)} for i in range(1_000)]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, rows)))
    ran = nll_here("score", "in.jsonl", *S, "--score", "sequence_nll")
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert len({len(line) for line in lines}) == 1
    assert [line.split()[0] for line in lines] == ["id", *(r["id"] for r in rows)]
    assert len({len(line.rstrip()) for line in lines}) == 1, "numbers end in the same column"


def test_columns_too_wide_for_any_line_are_folded(nll_here, tmp_path) -> None:
    (tmp_path / "in.txt").write_text("a text " * 900)
    ran = nll_here("score", "in.txt", "--score", "surprisal", *S)
    assert ran.code == 0
    head, *body = ran.out.splitlines()
    assert head.split() == ["id", "tokens", "mean_nll", "surprisal"]
    assert body[0].split()[:2] == ["in.txt", "6299"]
    assert len(body) > 1
    assert max(map(len, body)) <= 10_000
    assert len([x for line in body for x in line.split()]) >= 6_299


def test_report_with_rejected_texts(nll_here, tmp_path) -> None:
    (tmp_path / "in.jsonl").write_text('{"text": "fine"}\n{"text": ""}\n')
    ran = nll_here("report", "in.jsonl")
    assert ran.code == 1
    assert "nll: in.jsonl:2: not scored: the text is empty\n" in ran.err
    assert json.loads((tmp_path / "report.html.rejected.jsonl").read_text())["reason"] == "empty"
    (tmp_path / "in.jsonl").write_text('{"text": ""}\n')
    assert nll_here("report", "in.jsonl", "-o", "none.html").code == 2
    assert not (tmp_path / "none.html").exists()


def test_scores_lists_every_score(nll_here) -> None:
    ran = nll_here("scores")
    assert ran.code == 0
    listed = json.loads(nll_here("scores", "--json").out)
    assert {s["name"] for s in listed} == set(nll.declarations())
    for s in listed:
        assert s["name"] in ran.out
        assert s["paper"] in ran.out
        assert s["higher_means"]
    (lrr,) = (s for s in listed if s["name"] == "lrr")
    assert lrr["needs"] == ["logp", "rank"]


def test_version_and_helps_with_examples(nll_here) -> None:
    assert nll_here("--version").out == f"nll {nll.__version__}\n"
    for command in (
        [],
        ["report"],
        ["score"],
        ["trace"],
        ["scores"],
        ["model"],
        ["model", "install"],
    ):
        ran = nll_here(*command, "--help")
        assert ran.code == 0
        assert "Example: nll " in ran.out


@pytest.mark.parametrize("command", [[], ["train"], ["audit"]])
def test_nothing_asked_shows_the_help(nll_here, command: list[str]) -> None:
    ran = nll_here(*command)
    assert ran.code == 2
    assert ran.err.startswith("Usage: ")
    assert len(ran.err.splitlines()) > 8


def test_model_says_where_it_is(nll_here, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("NLL_CACHE", str(tmp_path))
    monkeypatch.setattr(nll.models, "find_gguf", lambda: None)
    assert nll_here("model").out == "not installed; run: nll model install\n"
    folder = nll.models.converted_folder()
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    assert nll_here("model").out == f"ready: {folder}\n"
    monkeypatch.setattr(nll.models, "install_embedded", lambda say: say("half a minute") or folder)
    ran = nll_here("model", "install")
    assert (ran.code, ran.out, ran.err) == (0, f"ready: {folder}\n", "nll: half a minute\n")


def poisoned(good: list[str]) -> tuple[list[bytes], list[tuple[int, str]]]:
    """Bad rows spread among the good ones, and where each is and why it is bad."""
    bad = [
        (b'{"text": ""}', "empty"),
        (b'{"text": null}', "null"),
        (b'{"text": 7}', "not_a_string"),
        (b'{"text": NaN}', "not_a_string"),
        (b'{"text": "\\udc00"}', "surrogates"),
        (b'{"text": "\xff"}', "not_utf8"),
        (b'{"text": "cut', "bad_json"),
        (b'{"id": "g3", "text": "twice"}', "duplicate_id"),
        (b'{"no": 1}', "missing_column"),
        ('{"text": "\N{OBJECT REPLACEMENT CHARACTER}"}'.encode(), "no_tokens"),
    ]
    rows = [g.encode() for g in good]
    places = []
    for i, (line, reason) in enumerate(bad):
        at = 5 + i * 97
        rows.insert(at, line)
        places.append((at + 1, reason))
    return rows, places


def test_reliability_18_poisoned_rows_do_not_touch_the_others(nll_here, tmp_path) -> None:
    three = ["--score", "mean_nll", "--score", "lrr", "--score", "min_k_prob"]
    odd = ["a", "\0", "שלום", "e\u0301" * 9, "\U0001f600", "x" * 1_000_000, HOSTILE, " ", "\r"]
    texts = odd + [f"good text {i} " * (i % 5 + 1) for i in range(1_000 - len(odd))]
    good = [json.dumps({"id": f"g{i}", "text": t}) for i, t in enumerate(texts)]
    (tmp_path / "clean.jsonl").write_text("\n".join(good))
    assert nll_here("score", "clean.jsonl", *three, "-o", "clean.parquet").code == 0
    assert not (tmp_path / "clean.parquet.rejected.jsonl").exists()
    rows, places = poisoned(good)
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(rows))
    ran = nll_here("score", "in.jsonl", *three, "-o", "out.parquet")
    assert ran.code == 1
    assert "1000 texts scored, 10 rejected (see out.parquet.rejected.jsonl)" in ran.err
    assert (tmp_path / "out.parquet").read_bytes() == (tmp_path / "clean.parquet").read_bytes()
    told = [
        json.loads(x)
        for x in (tmp_path / "out.parquet.rejected.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert [(r["line"], r["reason"]) for r in told] == places
    assert all(r["source"] == "in.jsonl" and r["detail"] for r in told)


def test_reliability_18_fail_on_error_stops_at_the_first(nll_here, tmp_path) -> None:
    rows, _ = poisoned([json.dumps({"id": f"g{i}", "text": "x"}) for i in range(1_000)])
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(rows))
    for out in ([], ["-o", "o.csv"]):
        ran = nll_here("score", "in.jsonl", "--score", "mean_nll", "--fail-on-error", *out)
        assert "in.jsonl:6: empty: the text is empty" in one_line(ran, code=1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.jsonl"]


S = ["--score", "mean_nll"]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["score", "none.txt", *S], "none.txt: no such file"),
        (["score", "folder", *S], "holds no texts"),
        (["score", "empty.txt", *S], "empty.txt is empty"),
        (["score", "binary.txt", *S], "binary"),
        (["score", "corrupt.parquet", *S], "not a whole Parquet file"),
        (["score", "cut.parquet", *S], "not a whole Parquet file"),
        (["score", "newer.parquet", *S], "pip install -U nll"),
        (["score", "in.jsonl", *S, "--text-column", "body"], "no column 'body' (it has: 'text'"),
        (["score", "in.jsonl", *S, "--id-column", "key"], "no column 'key'"),
        (["score", "in.jsonl", *S, "--prompt-column", "a"], "give both"),
        (["score", "in.jsonl", "--score", "min_k_probb"], "did you mean min_k_prob"),
        (["score", "in.jsonl", "--score", "min_k_prob(q=1)"], "no option 'q'"),
        (["score", "in.jsonl", "--score", "min_k_prob(k='a')"], "must be a number"),
        (["score", "in.jsonl", "--score", "min_k_prob(k=2.0)"], "min_k_prob(k=2.0)"),
        (["score", "in.jsonl", "--score", "min_k_prob("], "cannot read score"),
        (["score", "in.jsonl", "--score", "binoculars"], "name the second with --reference"),
        (["score", "in.jsonl", *S, "-o", "no/o.csv"], "there is no folder no"),
        (["score", "in.jsonl", *S, "-o", "o.xlsx"], "must end in .parquet or .jsonl or .csv"),
        (["score", "in.jsonl", *S, "-o", "in.jsonl"], "it is also an input"),
        (["score", "in.jsonl", *S, "-o", "folder"], "must end in"),
        (["score", "in.jsonl", *S, "-o", "dir.csv"], "it is a folder"),
        (["score", "in.jsonl", *S, "--stride", "0"], "--stride"),
        (["score", "in.jsonl", *S, "--top-k", "x"], "--top-k"),
        (["score", "in.jsonl", "--nonsense"], "--nonsense"),
        (["score"], "INPUT"),
        (["nonsense"], "nonsense"),
        (["trace", "in.jsonl", "-o", "o.csv"], "must end in .parquet"),
        (["report", "in.jsonl", "-o", "no/r.html"], "there is no folder no"),
        (["report", "in.jsonl", "-o", "r.pdf"], "must end in .html"),
    ],
)
def test_wrong_use_is_answered_in_one_line(nll_here, tmp_path, args, says: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "dir.csv").mkdir()
    (tmp_path / "in.jsonl").write_text('{"text": "abc"}\n')
    (tmp_path / "empty.txt").touch()
    (tmp_path / "binary.txt").write_bytes(bytes(range(256)) * 40)
    (tmp_path / "corrupt.parquet").write_bytes(b"PAR1" + bytes(200) + b"PAR1")
    pq.write_table(pa.table({"text": ["a"] * 99}), tmp_path / "cut.parquet")
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "cut.parquet").read_bytes()[:-30])
    newer = pa.table({"text": ["a"]}).replace_schema_metadata({"nll.schema": "2"})
    pq.write_table(newer, tmp_path / "newer.parquet")
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
    assert says in one_line(nll_here(*args))
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()} == before


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--model", "./none"], "there is no folder"),
        (["--model", "testing:bigram", "--dtype", "int3"], "dtype must be one of"),
        (["--model", "testing:bigram", "--batch-tokens", "0"], "--batch-tokens"),
    ],
)
def test_wrong_models_are_answered_in_one_line(nll_here, monkeypatch, tmp_path, args, says) -> None:
    from nll.models._load import load

    monkeypatch.setattr(nll.models, "load", load)
    (tmp_path / "in.txt").write_text("abc")
    assert says in one_line(nll_here("score", "in.txt", *S, *args))


def test_a_missing_extra_is_named(nll_here, monkeypatch, tmp_path) -> None:
    from nll.models import _load

    monkeypatch.setattr(nll.models, "load", _load.load)
    monkeypatch.setattr(_load, "find_spec", lambda name: None)
    (tmp_path / "in.txt").write_text("abc")
    assert 'pip install "nll[local]"' in one_line(nll_here("score", "in.txt", *S))


def test_reliability_17_read_only_folder(nll_here, texts, monkeypatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    for args in (["score", texts, *S, "-o", "o.csv"], ["trace", texts], ["report", texts]):
        assert "not writable" in one_line(nll_here(*args))
    monkeypatch.undo()


def test_reliability_17_a_folder_that_looks_writable_and_is_not(
    nll_here, texts, monkeypatch
) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "o.csv")

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    assert "not writable" in one_line(nll_here("score", texts, *S, "-o", "o.csv"))


def test_reliability_17_disk_full_while_the_report_is_written(nll_here, texts, monkeypatch) -> None:
    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for args in (["score", texts, *S, "-o", "o.csv"], ["trace", texts, "-o", "t.parquet"]):
        assert "no space left" in one_line(nll_here(*args), code=1)
    assert sorted(os.listdir()) == ["in.jsonl"]


def test_nll_debug_shows_the_traceback(nll_here, monkeypatch) -> None:
    monkeypatch.setenv("NLL_DEBUG", "1")
    monkeypatch.setattr(sys, "argv", ["nll", "score", "none.txt", *S])
    with pytest.raises(nll.BadInput):
        nll.cli.main()


def test_a_two_megabyte_line_is_scored(nll_here, tmp_path) -> None:
    (tmp_path / "in.txt").write_text("ab " * 700_000)
    assert nll_here("score", "in.txt", "--lines", *S, "-o", "o.csv").code == 0


def quick(*args: str) -> tuple[float, str]:
    """Best wall time of three, and the heavy modules that came along."""
    code = (
        "import sys; sys.argv = ['nll', *sys.argv[1:]]\n"
        "import atexit\n"
        "heavy = ('torch', 'transformers', 'pyarrow', 'numpy', 'rich')\n"
        "atexit.register(lambda: print('LOADED', *[m for m in heavy if m in sys.modules]))\n"
        "from nll.cli import main; main()"
    )
    best, out = 99.0, ""
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True)
        best, out = min(best, time.perf_counter() - start), done.stdout
    return best, out.rsplit("LOADED", 1)[1].strip()


def test_help_is_quick_and_light() -> None:
    seconds, loaded = quick("--help")
    assert loaded == ""
    assert seconds < 0.5


def test_scoring_stored_traces_imports_no_torch(nll_here, texts, tmp_path) -> None:
    assert nll_here("trace", texts).code == 0
    _, loaded = quick("score", str(tmp_path / "traces.parquet"), "--score", "mean_nll")
    assert "pyarrow" in loaded
    assert "torch" not in loaded
    assert "transformers" not in loaded
