"""What the server counts, for Prometheus."""

from __future__ import annotations

import os

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector


class Metrics:
    """Counters of one server; of several worker processes the scrape adds them up.

    Attributes:
        requests: answers, by path and status.
        seconds: from the head of a request until its answer is ready; of predictions that were answered.
        batches: images a batch.
        network_seconds: that the network ran.
        waiting: requests that are in work or wait.
    """

    def __init__(self) -> None:
        self._registry = own = CollectorRegistry()
        self.requests = Counter("carvana_requests", "Answers.", ["path", "status"], registry=own)
        self.seconds = Histogram(
            "carvana_request_seconds", "Time of a prediction, with its upload.", registry=own,
            buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
        )  # fmt: skip
        self.batches = Histogram(
            "carvana_batch_images", "Images in a batch.", buckets=(1, 2, 4, 8, 16, 32, 64), registry=own
        )
        self.network_seconds = Counter("carvana_network_seconds", "Time that the network ran.", registry=own)
        self.waiting = Gauge(
            "carvana_waiting_requests", "Requests in work or waiting.", multiprocess_mode="livesum", registry=own
        )
        ProcessCollector(registry=own)

    def text(self) -> bytes:
        """All of them in Prometheus's text format."""
        registry = self._registry
        if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)
