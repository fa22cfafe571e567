"""Models, health and metrics."""

from typing import Any

from fastapi import APIRouter, Response

from sentilora.serving.errors import Refusal
from sentilora.serving.routing import FEW_ERRORS, Services, reply
from sentilora.serving.served import Served

# Clients of OpenAI and of TypeSafe require a time; an adapter has none.
CREATED, RELEASE_DATE = 0, "1970-01-01"


def router(services: Services) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["operations"])

    @routes.get("/v1/models", responses=FEW_ERRORS)
    async def models() -> Response:
        """The adapters, and their base."""
        registry = services.registry
        served = [*registry.adapters.values(), registry.base()]
        data = [describe(model, registry.base_name) for model in served]
        has_review = services.review_store is not None
        names = [_as_typesafe(model) for model in served]
        return reply({"object": "list", "data": data, "models": names, "review": has_review})

    @routes.get("/livez")
    async def live() -> Response:
        """Whether the HTTP process works. Needs no key."""
        return reply({"live": True})

    @routes.get("/readyz", responses=FEW_ERRORS)
    async def ready() -> Response:
        """Whether texts are answered now; 503 with the reason if not."""
        require_ready(services)
        worker = services.answering.worker
        return reply(
            {
                "ready": True,
                "computed_on": worker.computed_on,
                "waiting_texts": len(worker.queue),
                "restarts": worker.num_restarts,
            }
        )

    @routes.get("/metrics", responses=FEW_ERRORS)
    async def metrics() -> Response:
        """Counters for Prometheus."""
        return Response(
            services.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8"
        )

    return routes


def require_ready(services: Services) -> None:
    """Raise `Refusal` with the reason unless texts are answered now."""
    answering = services.answering
    if answering.is_leaving or answering.is_draining:
        raise Refusal(503, "the server is shutting down", retry_after=5)
    if answering.worker.state != "ready":
        raise Refusal(503, f"the model is {answering.worker.state}", retry_after=5)


def describe(model: Served, base_name: str) -> dict[str, Any]:
    """A model as `/v1/models` lists it. labels: in the order of `probs`."""
    format = model.prompter.format
    return {
        "id": model.name,
        "object": "model",
        "created": CREATED,
        "owned_by": "sentilora",
        "type": "base" if model.key is None else "adapter",
        "labels": list(model.labels),
        "base": base_name,
        "abstain_below": model.calibration.abstain_below,
        "temperature": model.calibration.temperature,
        "columns": list(model.columns),
        "examples": model.examples,
        "instructions": model.instruction,
        "max_length": format.max_length,
        "truncation": format.truncation,
        "digest": model.digest,
    }


def _as_typesafe(model: Served) -> dict[str, str]:
    """A model as TypeSafe's clients list it."""
    kind = "a base" if model.key is None else "an adapter"
    description = f"{kind}; labels: {', '.join(model.labels)}"
    return {"name": model.name, "description": description, "release_date": RELEASE_DATE}
