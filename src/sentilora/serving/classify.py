"""`/classify` as vLLM has it, `/v1/classify` as SGLang does; with more per text than theirs."""

import time
import uuid
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Response

from sentilora.serving.answering import Answer
from sentilora.serving.errors import Refusal
from sentilora.serving.routing import ERRORS, JsonRoute, Services, Strict, headers_for, reply
from sentilora.serving.served import Served

Record = dict[str, Any]


class Message(Strict):
    """A message of a chat."""

    role: str
    content: str


class ClassifyRequest(Strict):
    """Texts, or objects where the adapter's prompt shows several columns."""

    model: str | None = None
    input: str | Record | list[str] | list[Record] | list[int] | list[list[int]] | None = None
    messages: list[Message] | None = None
    deterministic: bool = False
    user: str | None = None
    request_id: str | None = None
    rid: str | None = None
    priority: int | None = None
    truncate_prompt_tokens: int | None = None
    truncation_side: str | None = None
    add_special_tokens: bool = True
    use_activation: bool | None = None
    cache_salt: str | None = None


def router(services: Services) -> APIRouter:
    """The routes."""
    routes = APIRouter(route_class=JsonRoute, tags=["classify"])

    async def classify(request: ClassifyRequest) -> Response:
        """A label and a probability for every label, for each text."""
        model = services.registry.find(request.model)
        items = _items(request)
        answers = await services.answering.answers(
            model, items, alone=request.deterministic, refuses_long=_refuses_long(request, model)
        )
        return reply(_body(model, answers, request.request_id), headers_for(model, answers))

    for path in ("/v1/classify", "/classify"):
        routes.add_api_route(path, classify, methods=["POST"], responses=ERRORS)
    return routes


def _items(request: ClassifyRequest) -> Sequence[object]:
    if (request.input is None) == (request.messages is None):
        raise Refusal(422, "give either `input` or `messages`", param="input")
    if request.messages is not None:
        if [message.role for message in request.messages] != ["user"]:
            raise Refusal(422, "`messages` must be one user message", param="messages")
        return [request.messages[0].content]
    if isinstance(request.input, str | dict):
        return [request.input]
    items = request.input or []
    if any(isinstance(item, int | list) for item in items):
        raise Refusal(
            422, "send texts, not tokens: the adapter's prompt is put around them", param="input"
        )
    return items


def _refuses_long(request: ClassifyRequest, model: Served) -> bool | None:
    """Whether a long text is refused; None leaves it to the server. Refuses what it cannot do."""
    format = model.prompter.format
    side = {"tail": "left", "head": "right"}.get(format.truncation)
    if request.truncation_side not in (None, side):
        raise Refusal(
            422, f"this adapter keeps the {format.truncation} of a text", param="truncation_side"
        )
    if request.truncate_prompt_tokens not in (None, -1, format.max_length):
        raise Refusal(
            422,
            f"this adapter was trained with max_length {format.max_length}",
            param="truncate_prompt_tokens",
        )
    if request.use_activation is False or not request.add_special_tokens:
        raise Refusal(422, "this server sends probabilities of whole prompts only")
    return None


def _body(model: Served, answers: Sequence[Answer], request_id: str | None) -> dict[str, Any]:
    num_tokens = sum(answer.num_tokens for answer in answers)
    return {
        "id": f"classify-{request_id or uuid.uuid4().hex}",
        "object": "list",
        "created": int(time.time()),
        "model": model.name,
        "data": [
            {
                "index": index,
                "label": answer.label,
                "probs": answer.probabilities,
                "num_classes": len(model.labels),
                "probabilities": dict(zip(model.labels, answer.probabilities, strict=True)),
                "abstained": answer.abstained,
                "truncated": answer.truncated,
                "tokens": answer.num_tokens,
                "label_mass": answer.label_mass,
            }
            for index, answer in enumerate(answers)
        ],
        "usage": {
            "prompt_tokens": num_tokens,
            "total_tokens": num_tokens,
            "completion_tokens": 0,
            "prompt_tokens_details": None,
        },
    }
