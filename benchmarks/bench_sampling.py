"""Ten samples and five sampling estimators on one prompt, against lm-polygraph on the same model.

    python benchmarks/bench_sampling.py [--rounds 3] [--threads 1] [--new 12]

Ours: `nll.gather`, then the scores: the prompt is read once, and the greedy answer and all samples
are one generation. lm-polygraph 0.7 as its README shows: `estimate_uncertainty` once per estimator;
and, to be fair, its manager with all five at once, which samples once. The estimators are those of
both that need no second model. `make test-slow` installs lm-polygraph.
"""

from __future__ import annotations

import argparse
import io
import statistics
import sys
import warnings
from contextlib import redirect_stdout

import torch
from common import ROOT, interleaved, machine, ratio, save

import nll
from nll.models import converted_folder

sys.path.append(str(ROOT / "tests" / "peers"))
from standins import peer

PROMPT = "Q: What is the capital of Italy?\nA: Rome\nQ: What is the capital of Norway?\nA:"
SAMPLES = 10  # lm-polygraph's number
SPECS = {
    "predictive_entropy": "MonteCarloSequenceEntropy",
    "predictive_entropy(normalize=True)": "MonteCarloNormalizedSequenceEntropy",
    "lexical_similarity": "LexicalSimilarity_rougeL",
    "lexical_similarity(distance='rouge1')": "LexicalSimilarity_rouge1",
    "lexical_similarity(distance='bleu')": "LexicalSimilarity_BLEU",
}


def ours(model, options):
    """One gather and five scores, as a call that returns the scores by name."""

    def run():
        bundles = nll.gather(
            model, [PROMPT], list(SPECS), n_samples=SAMPLES, max_new_tokens=options.new
        )
        (row,) = nll.score(bundles, list(SPECS)).to_pylist()
        return {name: row[name] for name in SPECS}

    return run


def theirs(folder, options):
    """lm-polygraph on the same weights: once per estimator, and all at once."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    polygraph, estimators = peer("lm_polygraph"), peer("lm_polygraph.estimators")
    containers = peer("lm_polygraph.defaults.register_default_stat_calculators")
    builder = peer("lm_polygraph.utils.builder_enviroment_stat_calculator")
    # It stores the attention weights, which only the eager way gives.
    hf = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    model = polygraph.WhiteboxModel(hf, AutoTokenizer.from_pretrained(folder), model_path=folder)
    model.generation_parameters.max_new_tokens = options.new
    five = [
        estimators.MonteCarloSequenceEntropy(),
        estimators.MonteCarloNormalizedSequenceEntropy(),
        *(estimators.LexicalSimilarity(m) for m in ("rougeL", "rouge1", "BLEU")),
    ]

    def one_by_one():
        with redirect_stdout(io.StringIO()):
            return {
                str(e): float(polygraph.estimate_uncertainty(model, e, PROMPT).uncertainty)
                for e in five
            }

    def at_once():
        manager = polygraph.UEManager(
            polygraph.Dataset([PROMPT], [""], batch_size=1), model, five,
            available_stat_calculators=containers.register_default_stat_calculators("Whitebox"),
            builder_env_stat_calc=builder.BuilderEnvironmentStatCalculator(model),
            generation_metrics=[], ue_metrics=[], processors=[], ignore_exceptions=False,
            verbose=False, max_new_tokens=options.new,
        )  # fmt: skip
        with redirect_stdout(io.StringIO()):
            manager()
        return {str(e): float(manager.estimations[e.level, str(e)][0]) for e in five}

    return one_by_one, at_once


def main() -> None:
    """Parse, measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--new", type=int, default=12)
    options = parser.parse_args()
    if peer("lm_polygraph") is None:
        print("lm-polygraph is not in .venv/peers (make test-slow installs it); nothing compared")
        return
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    print(machine())
    one_by_one, at_once = theirs(str(converted_folder()), options)
    todo = {
        "nll": ours(nll.load(), options),
        "lm-polygraph, one call per estimator": one_by_one,
        "lm-polygraph, one manager for all": at_once,
    }
    values = {way: run() for way, run in todo.items()}
    seen = interleaved(todo, options.rounds, warm=False)
    times = {way: ratio(seen, way, "nll") for way in todo}
    for way in todo:
        middle = statistics.median(seen[way])
        print(f"  {way:38s} {middle:7.2f} s  {times[way]:6.2f} times ours")
    for name, value in values["nll"].items():
        others = [values[way][SPECS[name]] for way in list(todo)[1:]]
        print(f"  {name:38s} ours {value:.3f}   theirs {others[0]:.3f}, {others[1]:.3f}")
    save(
        "sampling",
        {
            "threads": options.threads, "samples": SAMPLES, "new tokens": options.new,
            "seconds": seen, "times_ours": times, "values": values,
        },
    )  # fmt: skip


if __name__ == "__main__":
    main()
