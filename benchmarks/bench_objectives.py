"""Log-probs for training: one tile of logits at a time against the whole of them.

    python benchmarks/bench_objectives.py [--rounds 3] [--tokens 4096] [--threads 1] [--keep]

Hidden states and head in the shape of SmolLM2-135M (d = 576, V = 49,152), float32, on CPU: the
mean nll of all tokens, forward and backward, once with the head trained and once with it frozen
(adapters). `plain` is `(hidden @ weight.T).log_softmax(-1)`, `cross_entropy` torch's fused loss on
the whole logits. Every measurement is a process of its own: peak is the kernel's high-water mark
above what the inputs take, seconds are CPU seconds with one thread and wall seconds with more, of
the second pass. Rounds are interleaved; the table gives medians and the median of the ratios.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from common import save

D, V = 576, 49152
WAYS = ("plain", "cross_entropy", "linear_logps")


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="write benchmarks/results")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.one:
        print(json.dumps(measure(*options.one.split(","), options.tokens, options.threads)))
        return
    result = {}
    for head in ("trained", "frozen"):
        rounds = [
            {way: alone(f"{way},{head}", options) for way in WAYS} for _ in range(options.rounds)
        ]
        result[head] = {way: summary(way, rounds) for way in WAYS}
        report(head, result[head])
    if options.keep:
        save("objectives", {"tokens": options.tokens, "threads": options.threads, **result})


def alone(one: str, options: argparse.Namespace) -> dict[str, float]:
    """Measure in a fresh process."""
    command = [sys.executable, __file__, "--one", one, "--tokens", str(options.tokens),
               "--threads", str(options.threads)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def measure(way: str, head: str, tokens: int, threads: int) -> dict[str, float]:
    """Peak MiB above the inputs, and seconds of the second of two passes."""
    from nll.objectives import linear_logps

    torch.manual_seed(0)
    hidden = torch.randn(tokens, D).requires_grad_()
    weight = (torch.randn(V, D) * 0.05).requires_grad_(head == "trained")
    labels = torch.randint(V, (tokens,))
    clock = time.process_time if threads == 1 else time.perf_counter
    # the matrix library's own buffers belong to neither way
    torch.mm(hidden.detach()[:64], weight.detach().T)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew from here
    start = resident("VmRSS")
    seconds = 0.0
    for _ in range(2):
        hidden.grad = weight.grad = None
        begun = clock()
        if way == "linear_logps":
            loss = -linear_logps(hidden, weight, labels, shift=False).logp.mean()
        elif way == "plain":
            logp = (hidden @ weight.T).log_softmax(-1)
            loss = -logp.gather(1, labels[:, None]).mean()
            del logp
        else:
            loss = torch.nn.functional.cross_entropy(hidden @ weight.T, labels)
        loss.backward()
        seconds = clock() - begun
    return {"peak_mib": resident("VmHWM") - start, "seconds": seconds, "loss": loss.item()}


def resident(field: str) -> float:
    """MiB of this process: VmRSS now, VmHWM at most."""
    status = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in status if line.startswith(field))
    return int(line.split()[1]) / 1024


def summary(way: str, rounds: list[dict[str, dict[str, float]]]) -> dict[str, float]:
    """Medians, and medians over rounds of the ratios to the plain way."""
    found = {
        key: statistics.median(r[way][key] for r in rounds)
        for key in ("peak_mib", "seconds", "loss")
    }
    for key in ("peak_mib", "seconds"):
        ratios = [r["plain"][key] / r[way][key] for r in rounds]
        found[f"plain_over_this_{key}"] = statistics.median(ratios)
    return found


def report(head: str, found: dict[str, dict[str, float]]) -> None:
    """Print one table."""
    print(f"\nhead {head}          peak MiB   (plain / this)   seconds   (plain / this)      loss")
    for way, x in found.items():
        print(
            f"  {way:16s} {x['peak_mib']:9.0f}  {x['plain_over_this_peak_mib']:12.2f}  "
            f"{x['seconds']:9.2f}  {x['plain_over_this_seconds']:12.2f}  {x['loss']:12.6f}"
        )


if __name__ == "__main__":
    main()
