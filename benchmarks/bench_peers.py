"""Against what people use: the same texts and model, in one process, all ways in turn.

    python benchmarks/bench_peers.py [--rounds 3] [--threads 2] [--load paragraphs|corpus|both]

Each peer is called as its documentation shows, with batches of 8 (`pip install "nll[peers]"`):
minicons `IncrementalLMScorer.token_score` (surprisal, and with ranks), lm-eval
`HFLM.loglikelihood_rolling`, surprisal `CausalHuggingFaceModel.surprise`. Ours returns nll,
entropy, variance, rank and top 10 of every token. The totals must agree.
"""

from __future__ import annotations

import argparse
import statistics
import warnings

import torch
from common import corpus, interleaved, machine, paragraphs, ratio, save

import nll
from nll.models import converted_folder

BATCH = 8


def batches(texts):
    """The texts in the order given, eight at a time."""
    return [texts[i : i + BATCH] for i in range(0, len(texts), BATCH)]


def ways(texts):
    """Every tool as a call that returns the total log-likelihood."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM
    from minicons.scorer import IncrementalLMScorer
    from surprisal import CausalHuggingFaceModel

    folder = str(converted_folder())
    ours, ours_bos = nll.load(), nll.load(bos="bos")
    minicons = IncrementalLMScorer(folder, "cpu")
    lm_eval = HFLM(pretrained=folder, device="cpu", batch_size=BATCH)
    surprisal = CausalHuggingFaceModel(folder)

    def score(model):
        return lambda: sum(t.values("logp").sum() for t in model.trace(texts))

    def by_minicons(rank):
        def run():
            rows = [
                row
                for part in batches(texts)
                for row in minicons.token_score(part, surprisal=True, rank=rank)
            ]
            return -sum(value[1] for row in rows for value in row[1:])

        return run

    def by_lm_eval():
        asked = [Instance("loglikelihood_rolling", {}, (t,), 0) for t in texts]
        return sum(lm_eval.loglikelihood_rolling(asked, disable_tqdm=True))

    def by_surprisal():
        rows = [row for part in batches(texts) for row in surprisal.surprise(part)]
        return -sum(float(row.surprisals[1:].sum()) for row in rows)

    return {
        "nll": score(ours),
        "nll, BOS": score(ours_bos),
        "minicons": by_minicons(False),
        "minicons, ranks": by_minicons(True),
        "lm-eval": by_lm_eval,
        "surprisal": by_surprisal,
    }


def main() -> None:
    """Parse, measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--load", choices=["paragraphs", "corpus", "both"], default="both")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    print(machine())
    loads = {"paragraphs": paragraphs(), "corpus": corpus(tokens=6_000)}
    for name, texts in loads.items():
        if options.load not in (name, "both"):
            continue
        todo = ways(texts)
        tokens = sum(len(t) for t in nll.load().trace(texts))
        totals = {way: float(run()) for way, run in todo.items()}
        seen = interleaved(todo, options.rounds, warm=False)
        print(f"\n{name}: {len(texts)} texts, {tokens} tokens")
        times = {way: ratio(seen, way, "nll") for way in todo}
        for way in todo:
            middle = statistics.median(seen[way])
            print(
                f"  {way:16s} {tokens / middle:8.1f} tokens/s  {times[way]:6.2f} times ours"
                f"   total {totals[way]:.3f}"
            )
        save(
            f"peers-{name}",
            {
                "threads": options.threads, "tokens": tokens, "texts": len(texts),
                "seconds": seen, "times_ours": times, "totals": totals,
            },
        )  # fmt: skip


if __name__ == "__main__":
    main()
