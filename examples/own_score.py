"""A score of your own: a function and a declaration."""

import nll


@nll.declare_score(
    higher_means="surprising",
    reads=("rank",),
    unit="1",
    range=(0, 1),
    paper="this example",
    question="surprisal",
)
def share_outside_top(trace: nll.Trace, *, top: int = 10) -> float:
    """Share of the tokens that are not among the most likely ones."""
    ranks = trace.values("rank")
    return float((ranks > top).mean()) if ranks.size else nll.Undefined("no token was scored")


model = nll.load()
traces = list(model.trace(["The cat sat on the mat.", "The mat sat on the idea of a cat."]))
table = nll.score(traces, ["share_outside_top", "share_outside_top(top=1)"])
for row in table.to_pylist():
    print(row)
