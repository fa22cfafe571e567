"""`/predict` and `/invocations` in the format of text-embeddings-inference, and `/info`."""

import time
from typing import Any, Literal

from fastapi import APIRouter, Response

from sentilora.serving.answering import Answer
from sentilora.serving.errors import Refusal
from sentilora.serving.routing import (
    ERRORS,
    FEW_ERRORS,
    JsonRoute,
    Services,
    Strict,
    headers_for,
    reply,
)
from sentilora.serving.served import Served
from sentilora.version import __version__


class PredictRequest(Strict):
    """One text, or lists of one text each."""

    inputs: str | list[str] | list[list[str]]
    truncate: bool | None = None
    truncation_direction: Literal["left", "right"] | None = None
    raw_scores: bool = False


def router(services: Services) -> APIRouter:
    """The routes."""
    routes = APIRouter(route_class=JsonRoute, tags=["text-embeddings-inference"])

    async def predict(request: PredictRequest) -> Response:
        """Labels with their probabilities, the most probable first."""
        started = time.perf_counter()
        model = services.registry.find(None)
        texts = _texts(request)
        kept = {"tail": "left", "head": "right"}.get(model.prompter.format.truncation)
        if request.raw_scores:
            raise Refusal(422, "`raw_scores` are not offered: calibration needs probabilities")
        if request.truncation_direction not in (None, kept):
            raise Refusal(422, f"this adapter keeps the {model.prompter.format.truncation}")
        refuses_long = None if request.truncate is None else not request.truncate
        answers = await services.answering.answers(model, texts, refuses_long=refuses_long)
        rows = [_ranked(model, answer) for answer in answers]
        headers = headers_for(model, answers)
        headers["x-compute-tokens"] = str(sum(answer.num_tokens for answer in answers))
        headers["x-compute-characters"] = str(sum(map(len, texts)))
        headers["x-total-time"] = str(round(1000 * (time.perf_counter() - started)))
        is_batch = isinstance(request.inputs, list) and isinstance(request.inputs[0], list)
        return reply(rows if is_batch else rows[0], headers)

    for path in ("/predict", "/invocations"):
        routes.add_api_route(path, predict, methods=["POST"], responses=ERRORS)

    @routes.get("/info", responses=FEW_ERRORS)
    async def info() -> Response:
        """What is served, and its limits."""
        model = services.registry.find(None)
        limits = services.answering.limits
        names = list(enumerate(model.labels))
        return reply(
            {
                "model_id": services.registry.base_name,
                "model_sha": model.digest,
                "model_dtype": services.answering.worker.computed_on,
                "served_model_name": model.name,
                "model_type": {
                    "classifier": {
                        "id2label": {str(number): label for number, label in names},
                        "label2id": {label: number for number, label in names},
                    }
                },
                "max_input_length": model.prompter.max_prompt_tokens,
                "max_batch_tokens": services.answering.worker.queue.max_tokens,
                "max_client_batch_size": limits.max_texts,
                "auto_truncate": not limits.refuses_long,
                "version": __version__,
            }
        )

    return routes


def _texts(request: PredictRequest) -> list[str]:
    if isinstance(request.inputs, str):
        return [request.inputs]
    if not request.inputs:
        raise Refusal(400, "`inputs` is empty")
    texts: list[Any] = []
    groups = [x if isinstance(x, list) else request.inputs for x in request.inputs]
    is_flat = isinstance(request.inputs[0], str)
    for group in groups[:1] if is_flat else groups:
        if len(group) != 1:
            raise Refusal(
                422,
                'in this format ["a", "b"] is one pair of texts, which a classifier of single '
                'texts has no answer for; send [["a"], ["b"]]',
            )
        texts += group
    return texts


def _ranked(model: Served, answer: Answer) -> list[dict[str, Any]]:
    pairs = zip(model.labels, answer.probabilities, strict=True)
    ranked = sorted(pairs, key=lambda pair: -pair[1])
    return [{"score": score, "label": label} for label, score in ranked]
