"""`POST /v1/explain`: the words that moved an answer. It waits while any answer waits."""

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
from fastapi import APIRouter, Response

from sentilora.errors import SentiloraError
from sentilora.scoring.explain import Explanation, explain
from sentilora.serving.answering import Answering
from sentilora.serving.errors import Refusal
from sentilora.serving.queue import LOW
from sentilora.serving.routing import ERRORS, JsonRoute, Services, Strict, headers_for, reply
from sentilora.serving.served import Served

MAX_AT_ONCE = 2  # explanations under way; each is up to 64 texts


class ExplainRequest(Strict):
    """One text, or an object where the adapter's prompt shows several columns."""

    model: str | None = None
    input: str | dict[str, Any]


class _QueueScorer:
    """What `explain` scores with: the queue's low lane, called from a thread."""

    def __init__(
        self, answering: Answering, model: Served, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._answering, self._model, self._loop = answering, model, loop
        self._running: Any = None
        self._is_cancelled = False

    def log_probs(self, prompts: Sequence[list[int]]) -> np.ndarray:
        """Log-probabilities of the labels after each prompt: (prompts, labels)."""
        if self._is_cancelled:
            raise asyncio.CancelledError
        work = self._answering.scores(self._model, prompts, whole=True, lane=LOW)
        self._running = asyncio.run_coroutine_threadsafe(work, self._loop)
        scores = self._running.result()
        return np.array(scores, dtype=np.float64)

    def cancel(self) -> None:
        """Drop what waits: the client is gone."""
        self._is_cancelled = True
        if self._running is not None:
            self._running.cancel()


def router(services: Services) -> APIRouter:
    """The route."""
    routes = APIRouter(route_class=JsonRoute, tags=["classify"])
    places = asyncio.Semaphore(MAX_AT_ONCE)

    @routes.post("/v1/explain", responses=ERRORS)
    async def explain_text(request: ExplainRequest) -> Response:
        """The contribution of each word to the most probable label, in log-odds."""
        model = services.registry.find(request.model)
        answering = services.answering
        await answering.admit(LOW)
        await answering.encode(model, [request.input])
        model.num_active += 1
        answering.num_active += 1
        try:
            async with places:
                explanation = await _explain(answering, model, request.input)
        finally:
            model.num_active -= 1
            answering.num_active -= 1
        return reply(_body(model, explanation), headers_for(model, []))

    return routes


async def _explain(answering: Answering, model: Served, item: Any) -> Explanation:
    scorer = _QueueScorer(answering, model, asyncio.get_running_loop())
    try:
        return await asyncio.to_thread(
            explain, scorer, model.prompter, item, temperature=model.calibration.temperature
        )
    except SentiloraError:
        raise Refusal(422, "this text cannot be explained", param="input") from None
    finally:
        scorer.cancel()


def _body(model: Served, explanation: Explanation) -> dict[str, Any]:
    return {
        "model": model.name,
        "label": explanation.label,
        "probability": explanation.probability,
        "words": [
            {"start": word.start, "end": word.end, "contribution": word.contribution}
            for word in explanation.words
        ],
    }
