"""Scores of several texts, as a table."""

from pathlib import Path

import nll

folder = Path(__file__).parent
files = sorted(folder.glob("*.txt"))
# The line break that ends a file is no part of its text; the command line leaves it out, too.
texts = [nll.Text(p.read_text("utf-8").removesuffix("\n"), id=p.stem) for p in files]
scores = ["mean_nll", "min_k_prob", "lrr", "fast_detect_gpt"]

model = nll.load()
traces = list(model.trace(texts))
table = nll.score(traces, scores)

print(f"{'':22}", *(f"{name:>16}" for name in scores))
for row in table.to_pylist():
    print(f"{row['id']:22}", *(f"{row[name]:16.3f}" for name in scores))
