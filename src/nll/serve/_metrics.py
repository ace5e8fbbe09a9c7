"""What the server counts, in a registry of its own, for Prometheus to read."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)


class Metrics:
    """Requests by route and status, seconds, tokens, batch sizes, what waits."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "nll_requests", "Requests answered.", ["route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "nll_request_seconds", "From the first byte in to the last one out.", ["route"],
            buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip
        self.running = Gauge(
            "nll_requests_running", "Requests being served.", registry=self.registry
        )
        self.waiting = Gauge(
            "nll_texts_waiting", "Texts and prompts that wait or run.", registry=self.registry
        )
        self.scored = Counter("nll_tokens_read", "Tokens read.", registry=self.registry)
        self.generated = Counter("nll_tokens_written", "Tokens written.", registry=self.registry)
        self.batch = Histogram(
            "nll_batch_texts", "Texts scored together.", buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
            registry=self.registry,
        )  # fmt: skip

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)
