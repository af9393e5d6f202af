"""What a server counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from saccade.core.route import Route

CONTENT_TYPE = CONTENT_TYPE_LATEST
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
RATES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


class ServeMetrics:
    """The metrics of one server; two servers of one process share none.

    Attributes:
        first_token: Seconds from a request's arrival to its first token.
        rate: Tokens a second of an answer after its first.
        tokens: Tokens of answers.
        prompt_rows: Rows of prompts: read, or reused.
        visual: Visual rows times layers, of what could be done for them: computed, skipped or reused.
        requests: Requests by how they ended.
        refused: Requests that were refused, by HTTP status.
        queue: Requests that wait.
        running: Answers that are being written.
        beginnings: Bytes of kept beginnings of prompts.
        lookups: Requests with pictures: whether their beginning was kept, or never is under their plan.
    """

    def __init__(self) -> None:
        """Begins at nothing."""
        self._registry = registry = CollectorRegistry()
        plan = ("plan",)
        self.first_token = Histogram(
            "saccade_time_to_first_token_seconds",
            "Seconds from a request's arrival to its first token",
            plan,
            buckets=SECONDS,
            registry=registry,
        )
        self.rate = Histogram(
            "saccade_tokens_per_second",
            "Tokens a second of an answer after its first",
            plan,
            buckets=RATES,
            registry=registry,
        )
        self.tokens = Counter("saccade_generated_tokens", "Tokens of answers", plan, registry=registry)
        self.prompt_rows = Counter(
            "saccade_prompt_rows", "Rows of prompts", ("plan", "state"), registry=registry
        )
        self.visual = Counter(
            "saccade_visual_row_layers",
            "Visual rows times layers, by what could be done for them and whether it was",
            ("plan", "part", "state"),
            registry=registry,
        )
        self.requests = Counter("saccade_requests", "Requests", ("plan", "ended"), registry=registry)
        self.refused = Counter("saccade_refused", "Refused requests", ("status",), registry=registry)
        self.queue = Gauge("saccade_queue_length", "Requests that wait", registry=registry)
        self.running = Gauge("saccade_running", "Answers that are being written", registry=registry)
        self.beginnings = Gauge(
            "saccade_prefix_bytes", "Bytes of kept beginnings of prompts", registry=registry
        )
        self.lookups = Counter(
            "saccade_prefix_lookups",
            "Requests with pictures: hit, miss, or never where a plan looks at the end of the prompt",
            ("plan", "found"),
            registry=registry,
        )

    def read(self, plan: str, route: Route) -> None:
        """Counts what was done for the visual rows of prompts.

        Args:
            plan: Name of the plan.
            route: What ran.
        """
        visual_BN = route.layout.visual_BN
        whole, sums = int(visual_BN.sum()), dict.fromkeys(("kv", "attention", "ffn"), 0)
        counted: dict[int, int] = {}
        for layer in route.layers:
            sets = {"kv": layer.alive_BN, "attention": layer.query_BN, "ffn": layer.ffn_BN}
            for part, rows_BN in sets.items():
                if id(rows_BN) not in counted:
                    counted[id(rows_BN)] = int((rows_BN.to(visual_BN.device) & visual_BN).sum())
                sums[part] += counted[id(rows_BN)]
        for part, computed in sums.items():
            self.visual.labels(plan, part, "computed").inc(computed)
            self.visual.labels(plan, part, "skipped").inc(whole * len(route.layers) - computed)

    def page(self) -> bytes:
        """All of them as Prometheus reads them."""
        return generate_latest(self._registry)
