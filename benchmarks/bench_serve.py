"""Many clients at `nll serve`: errors, lost answers, memory, and speed against the offline batch.

    python benchmarks/bench_serve.py [--clients 64] [--seconds 60] [--threads 1] [--model MODEL]

Every client sends one text at a time to /v1/score of a server in a process of its own, with the
embedded model, and checks the answer against the offline one. Before and after it this process
scores the same texts offline for as long together, so that a machine that others use as well
slows both. A text is a paragraph of 10 to 150 tokens. Speed is the tokens of answered requests.
"""

from __future__ import annotations

import argparse
import http.client
import json
import math
import os
import random
import re
import subprocess
import sys
import threading
import time
from collections import Counter

import psutil
import torch
from common import machine, paragraphs, save

import nll


def offline(model, texts: list[str], seconds: float) -> float:
    """Tokens a second of `model.trace` over many texts at once."""
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        done += sum(len(t) for t in model.trace(texts, fields=nll.Fields()))
    return done / (time.perf_counter() - began)


class Load:
    """Clients that ask one thing after the other until the time is over."""

    def __init__(self, port: int, texts: list[str], wanted: list[float], tokens: list[int]):
        self.port, self.texts, self.wanted, self.tokens = port, texts, wanted, tokens
        self.statuses: Counter[int | str] = Counter()
        self.answered = self.wrong = self.sent = 0
        self.worst = 0.0
        self.seconds: list[float] = []
        self.lock = threading.Lock()

    def client(self, seed: int, until: float) -> None:
        """One client."""
        draw = random.Random(seed)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        while time.perf_counter() < until:
            i = draw.randrange(len(self.texts))
            body = json.dumps({"texts": [self.texts[i]], "scores": ["mean_nll"]})
            with self.lock:
                self.sent += 1
            began = time.perf_counter()
            try:
                kind = {"Content-Type": "application/json"}
                connection.request("POST", "/v1/score", body, kind)
                found = connection.getresponse()
                data = json.loads(found.read())
            except (OSError, http.client.HTTPException, ValueError) as error:
                with self.lock:
                    self.statuses[type(error).__name__] += 1
                connection.close()
                continue
            took = time.perf_counter() - began
            with self.lock:
                self.statuses[found.status] += 1
                if found.status == 200:
                    value = data["data"][0]["scores"]["mean_nll"]
                    off = abs(value - self.wanted[i])
                    self.worst = max(self.worst, off)
                    self.wrong += not off < 1e-3
                    self.seconds.append(took)
                    self.answered += self.tokens[i]
            if found.status == 429:
                time.sleep(float(found.headers["Retry-After"]))
        connection.close()


def main() -> None:
    """Parse, measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--model", default=None, help="[default: the embedded model]")
    parser.add_argument("--no-save", action="store_true", help="only print")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(machine())
    model = nll.load(options.model)
    texts = paragraphs(256)
    traces = list(model.trace(texts, fields=nll.Fields()))
    wanted = [float(-t.values("logp").mean()) for t in traces]
    tokens = [len(t) for t in traces]
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
    command = [sys.executable, "-m", "nll", "serve", "--port", "0"]
    command += ["--model", options.model] if options.model else []
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stderr is not None
        line = server.stderr.readline()
        port = int(re.search(r":(\d+)$", line.strip())[1])  # type: ignore[index]
        load = Load(port, texts, wanted, tokens)
        warm = Load(port, texts, wanted, tokens)
        warm.client(0, time.perf_counter() + 3)
        before = offline(model, texts, options.seconds / 2)
        began = time.perf_counter()
        until = began + options.seconds
        clients = [
            threading.Thread(target=load.client, args=(i, until)) for i in range(options.clients)
        ]
        for c in clients:
            c.start()
        process, memory = psutil.Process(server.pid), []
        while time.perf_counter() < until:
            memory.append(process.memory_info().rss / 2**20)
            time.sleep(0.5)
        for c in clients:
            c.join()
        took = time.perf_counter() - began
        after = offline(model, texts, options.seconds / 2)
        server.terminate()
        server.wait(60)
    online, batch = load.answered / took, (before + after) / 2
    third = len(memory) // 3
    growth = max(memory[2 * third :]) - max(memory[third : 2 * third])
    waits = sorted(load.seconds)
    result = {
        "model": model.provenance.model,
        "threads": options.threads,
        "clients": options.clients,
        "seconds": round(took, 1),
        "sent": load.sent,
        "statuses": {str(k): v for k, v in load.statuses.items()},
        "lost": load.sent - sum(load.statuses.values()),
        "wrong": load.wrong,
        "worst_difference_nats": load.worst,
        "server_tokens_per_s": round(online, 1),
        "offline_tokens_per_s": [round(before, 1), round(after, 1)],
        "share_of_offline": round(online / batch, 3),
        "seconds_median": round(waits[len(waits) // 2], 3) if waits else math.nan,
        "seconds_p99": round(waits[int(len(waits) * 0.99)], 3) if waits else math.nan,
        "server_memory_mib": [round(m) for m in memory[:: max(1, len(memory) // 12)]],
        "memory_growth_mib_last_third": round(growth, 1),
    }
    print(json.dumps(result, indent=1))
    if not options.no_save:
        save("serve", result)


if __name__ == "__main__":
    main()
