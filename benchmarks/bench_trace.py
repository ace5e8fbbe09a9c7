"""A full trace against the bare forward pass of the same batches.

    python benchmarks/bench_trace.py [--rounds 5] [--threads 2]

Bare: transformers' own backbone over the very batches that the trace plans, and the head over the
same rows in the same blocks, whose logits are thrown away. Trace: nll, entropy, variance, rank and
top 10 of every token, through the public call. Workloads: equal lengths, 32 paragraphs, a corpus
of 5 to 2,000 tokens. Beside them stands what the machine's matrix product reaches by itself.
"""

from __future__ import annotations

import argparse
import statistics

import torch
from common import corpus, interleaved, machine, paragraphs, peak_mib, prose, ratio, save

import nll
from nll.kernels import block_rows_for
from nll.models._layout import plan


def batches_of(model, texts):
    """The batches that `model.trace(texts)` runs, chunk by chunk."""
    stride = model.network.context // 2
    out = []
    for chunk in model._chunks(texts, None):
        for pack, part in model._parted(model._segments(chunk, stride, False), None):
            out += plan(part, budget=model.batch_tokens, pack=pack)
    return out


@torch.inference_mode()
def bare(model, batches):
    """Backbone and head, nothing kept."""
    head = model.network.head
    size = block_rows_for(head.vocab_size, head.weight.device)
    out = torch.empty(size, head.vocab_size)
    for batch in batches:
        rows = model.network.states(batch, torch.from_numpy(batch.rows))
        for start in range(0, len(rows), size):
            block = rows[start : start + size]
            head.logits(block, out=out[: len(block)])


def main() -> None:
    """Parse, measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(machine())
    model = nll.load()
    whole = nll.models.from_transformers(model.network.hf, model.tokenizer.hf.whole)
    flops = 2 * sum(p.numel() for p in model.network.hf.parameters())  # a token; attention apart
    peak = product()
    print(f"float32 matrix product: {peak:.0f} GFLOP/s")
    words = prose()
    equal = [cut(model, words[20 * i :], 256) for i in range(8)]
    loads = {"equal lengths, 8 x 256": equal, "32 paragraphs": paragraphs(), "corpus": corpus()}
    result: dict[str, object] = {
        "threads": options.threads, "rounds": options.rounds, "product, GFLOP/s": peak,
    }  # fmt: skip
    for name, texts in loads.items():
        batches = batches_of(model, texts)
        needed = sum(len(t) for t in model.trace(texts))
        computed = sum(b.tokens for b in batches)
        seen = interleaved(
            {
                "bare": lambda b=batches: bare(whole, b),
                "trace": lambda t=texts: list(model.trace(t)),
                "trace, torch twin": lambda t=texts: twin(model, t),
            },
            options.rounds,
        )
        peaks = {
            "bare": peak_mib(lambda b=batches: bare(whole, b)),
            "trace": peak_mib(lambda t=texts: list(model.trace(t))),
        }
        speed = {way: needed / statistics.median(times) for way, times in seen.items()}
        share = {way: 1 / ratio(seen, way, "bare") for way in ("trace", "trace, torch twin")}
        print(f"\n{name}: {needed} tokens needed, {computed} computed ({computed / needed:.3f})")
        for way, times in seen.items():
            print(f"  {way:18s} {speed[way]:8.1f} tokens/s   ({min(times):.2f}-{max(times):.2f} s)")
        achieved = {way: flops * value / 1e9 for way, value in speed.items()}
        print(f"  GFLOP/s of {peak:.0f}: " + ", ".join(f"{w} {v:.0f}" for w, v in achieved.items()))
        for way, value in share.items():
            print(f"  {way} runs at {value:.3f} of the bare forward's tokens per second")
        print(f"  peak MiB above the loaded model: {peaks}")
        result[name] = {
            "tokens": needed, "computed": computed, "tokens_per_s": speed, "share_of_bare": share,
            "seconds": seen, "peak_mib": peaks, "GFLOP/s": achieved,
        }  # fmt: skip
    long = cut(model, words * 8, 4096)
    batches = batches_of(model, [long])
    peaks = {
        "bare forward without logits": peak_mib(
            lambda: [whole.network.states(b, torch.from_numpy(b.rows)) for b in batches]
        ),
        "trace": peak_mib(lambda: list(model.trace([long]))),
    }
    print(f"\none text of 4,096 tokens, peak MiB above the loaded model: {peaks}")
    result["4,096 tokens, peak MiB"] = peaks
    save("trace", result)


def product(size=2048):
    """GFLOP/s of the best of five float32 products of two square matrices."""
    a, b = torch.rand(2, size, size)
    seconds = interleaved({"product": lambda: a @ b}, 5)["product"]
    return 2 * size**3 / min(seconds) / 1e9


def cut(model, words, tokens):
    """The text of the first tokens of these words."""
    ids = model.tokenizer.hf(" ".join(words), verbose=False)["input_ids"]
    return model.tokenizer.hf.decode(ids[:tokens])


def twin(model, texts):
    """The same trace with the statistics in plain torch."""
    import os

    os.environ["NLL_ROW_KERNEL"] = "torch"
    try:
        return list(model.trace(texts))
    finally:
        del os.environ["NLL_ROW_KERNEL"]


if __name__ == "__main__":
    main()
