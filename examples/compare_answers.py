"""Which of two answers does the model find likelier? The prompt is read, the answers are scored."""

import json
from pathlib import Path

import nll

lines = Path(__file__).with_name("questions.jsonl").read_text("utf-8").splitlines()
rows = [json.loads(line) for line in lines]
pairs = [nll.Text.pair(row["prompt"], row["completion"], id=row["id"]) for row in rows]

model = nll.load()
cost = {trace.id: nll.scores.sequence_nll(trace) for trace in model.trace(pairs)}

for name in sorted({row["id"].rsplit("-", 1)[0] for row in rows}):
    right, wrong = cost[f"{name}-right"], cost[f"{name}-wrong"]
    verdict = "right answer" if right < wrong else "WRONG ANSWER"
    print(f"{name:8} right {right:6.2f}   wrong {wrong:6.2f} nats   the {verdict} is likelier")
