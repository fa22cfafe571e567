"""What the server counts, for Prometheus. No metric has a text or a key in its labels."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from sentilora.serving.answering import Answer
from sentilora.serving.worker import Worker

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_TOKENS = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)


class Metrics:
    """The counters of one server."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "sentilora_requests", "Requests.", ["route", "status"], registry=registry
        )
        self.seconds = Histogram(
            "sentilora_request_seconds",
            "Time from a request to its answer.",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.answers = Counter(
            "sentilora_answers",
            "Texts answered by an adapter, by its most probable label.",
            ["model", "label", "abstained"],
            registry=registry,
        )
        self.truncated = Counter(
            "sentilora_truncated_texts", "Texts cut to fit.", ["model"], registry=registry
        )
        self.pass_texts = Histogram(
            "sentilora_pass_texts", "Texts per pass.", buckets=_TEXTS, registry=registry
        )
        self.pass_tokens = Histogram(
            "sentilora_pass_tokens", "Tokens per pass.", buckets=_TOKENS, registry=registry
        )
        self.pass_seconds = Histogram(
            "sentilora_pass_seconds", "Time of a pass.", buckets=_SECONDS, registry=registry
        )
        self._registry = registry

    def observe(self, route: str, status: int, seconds: float) -> None:
        """Count a request. status: 499 when the client left before its answer."""
        self.requests.labels(route, status).inc()
        self.seconds.labels(route).observe(seconds)

    def observe_pass(self, num_texts: int, num_tokens: int, seconds: float) -> None:
        """Count a pass of the model."""
        self.pass_texts.observe(num_texts)
        self.pass_tokens.observe(num_tokens)
        self.pass_seconds.observe(seconds)

    def observe_answer(self, model: str, answer: Answer) -> None:
        """Count an adapter's answer to a text."""
        self.answers.labels(model, answer.label, str(answer.abstained).lower()).inc()
        if answer.truncated:
            self.truncated.labels(model).inc()

    def watch(self, worker: Worker) -> None:
        """Show the state of a worker whenever the metrics are read."""
        queue = worker.queue
        for name, text, read in (
            ("sentilora_waiting_texts", "Texts that wait.", lambda: len(queue)),
            ("sentilora_waiting_tokens", "Tokens that wait.", lambda: queue.num_tokens),
            ("sentilora_predicted_wait_seconds", "For a new text.", queue.predicted_wait),
            ("sentilora_model_restarts", "Of the model's process.", lambda: worker.num_restarts),
            ("sentilora_ready", "1 if ready.", lambda: worker.state == "ready"),
        ):
            Gauge(name, text, registry=self._registry).set_function(read)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)
