"""Scores of several texts, as a table."""

from pathlib import Path

import nll

folder = Path(__file__).parent
texts = [nll.Text(path.read_text(), id=path.stem) for path in sorted(folder.glob("*.txt"))]

model = nll.load()
traces = list(model.trace(texts))
table = nll.score(traces, ["mean_nll", "min_k_prob", "lrr", "fast_detect_gpt"])

print(table.drop(["undefined"]).to_pandas().round(3).to_string(index=False))
