"""Traces on disk: run the model once, score as often as you like without it."""

import tempfile
from pathlib import Path

import nll

declaration = Path(__file__).with_name("memorised-declaration.txt").read_text("utf-8").strip()

with tempfile.TemporaryDirectory() as folder:
    file = Path(folder) / "traces.parquet"
    nll.write_traces(file, nll.load().trace([declaration]))

    for share in (0.1, 0.2, 0.5):
        [trace] = nll.read_traces(file)
        print(f"Min-K% with k = {share}: {nll.scores.min_k_prob(trace, k=share):.3f} nats")
