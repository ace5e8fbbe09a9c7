"""Many continuations of one prompt: shared, against one by one.

    python benchmarks/bench_continuations.py [--rounds 3]

20 options of about 10 tokens under a prompt of about 1,000 tokens, all at once against one call
each; 4 options under 500 tokens against one bare forward of the prompt; and texts that happen to
begin with the same header, which is found without being told.
"""

from __future__ import annotations

import argparse
import statistics

import numpy as np
import torch
from common import interleaved, machine, prose, save

import nll
from nll.trace import Fields


def main() -> None:
    """Parse, measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(machine())
    model = nll.load()
    words = prose() * 4

    def text(tokens, start=0):
        ids = model.tokenizer.hf(" ".join(words[start:]), verbose=False)["input_ids"]
        return model.tokenizer.hf.decode(ids[:tokens])

    long, short = text(1000), text(500)
    endings = [" " + text(10, 37 * i + 11) for i in range(20)]
    header = text(400)
    shots = [header + " " + text(40, 50 * i + 3) for i in range(16)]
    ids = torch.tensor([model.tokenizer.hf(short)["input_ids"]])

    @torch.inference_mode()
    def forward():
        states = model.network.hf.base_model(ids, use_cache=False).last_hidden_state
        return model.network.head.logits(states[0, -1:])

    def one_by_one():
        return np.concatenate([model.options(long, [e]) for e in endings])

    seen = interleaved(
        {
            "20 options, shared": lambda: model.options(long, endings),
            "20 options, one by one": one_by_one,
            "4 options, shared": lambda: model.options(short, endings[:4]),
            "500-token forward": forward,
            "16 texts, one header": lambda: list(model.trace(shots, fields=Fields())),
            "16 texts, one by one": lambda: [
                next(model.trace([s], fields=Fields())) for s in shots
            ],
        },
        options.rounds,
    )
    middle = {name: statistics.median(times) for name, times in seen.items()}
    apart = float(np.abs(model.options(long, endings) - one_by_one()).max())
    result = {
        "20 options: times faster": middle["20 options, one by one"] / middle["20 options, shared"],
        "4 options: times one forward": middle["4 options, shared"] / middle["500-token forward"],
        "shared header: times faster": middle["16 texts, one by one"]
        / middle["16 texts, one header"],
        "largest difference, nats per option": apart,
        "seconds": seen,
    }
    for name, value in result.items():
        if name != "seconds":
            print(f"{name}: {value:.6g}")
    save("continuations", result)


if __name__ == "__main__":
    main()
