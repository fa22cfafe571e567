"""The Open Inference Protocol v2: KServe's, Triton's and Seldon's REST interface."""

import math
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from sentilora.serving.answering import Answer
from sentilora.serving.errors import Refusal
from sentilora.serving.operations import require_ready
from sentilora.serving.routing import (
    ERRORS,
    FEW_ERRORS,
    JsonRoute,
    Services,
    headers_for,
    reply,
)
from sentilora.serving.served import Served
from sentilora.version import __version__

OUTPUTS = ("label", "probabilities", "abstained", "truncated")


class InputTensor(BaseModel):
    """The texts, as one tensor of strings."""

    name: str
    shape: list[Annotated[int, Field(ge=0)]]
    datatype: str
    data: list[Any]
    parameters: dict[str, Any] | None = None


class OutputRequest(BaseModel):
    """An output that is wanted."""

    name: str
    parameters: dict[str, Any] | None = None


class InferRequest(BaseModel):
    """Texts to classify, and which outputs to send."""

    id: str | None = None
    inputs: list[InputTensor]
    outputs: list[OutputRequest] | None = None
    parameters: dict[str, Any] | None = None


def router(services: Services) -> APIRouter:
    """The routes."""
    routes = APIRouter(route_class=JsonRoute, tags=["open-inference-protocol"])

    @routes.get("/v2", responses=FEW_ERRORS)
    async def server() -> Response:
        """The server."""
        return reply({"name": "sentilora", "version": __version__, "extensions": []})

    @routes.get("/v2/health/live")
    async def live() -> Response:
        """Whether the HTTP process works. Needs no key."""
        return reply({"live": True})

    @routes.get("/v2/health/ready", responses=FEW_ERRORS)
    async def ready() -> Response:
        """Whether texts are answered now."""
        require_ready(services)
        return reply({"ready": True})

    @routes.get("/v2/models/{name}", responses=FEW_ERRORS)
    async def metadata(name: str) -> Response:
        """A model's inputs and outputs."""
        model = services.registry.find(name)
        n = len(model.labels)
        outputs = [
            {"name": "label", "datatype": "BYTES", "shape": [-1]},
            {"name": "probabilities", "datatype": "FP64", "shape": [-1, n]},
            {"name": "abstained", "datatype": "BOOL", "shape": [-1]},
            {"name": "truncated", "datatype": "BOOL", "shape": [-1]},
        ]
        return reply(
            {
                "name": model.name,
                "versions": ["1"],
                "platform": "sentilora",
                "inputs": [{"name": "text", "datatype": "BYTES", "shape": [-1]}],
                "outputs": outputs,
            }
        )

    @routes.get("/v2/models/{name}/ready", responses=FEW_ERRORS)
    async def model_ready(name: str) -> Response:
        """Whether a model answers now."""
        model = services.registry.find(name)
        require_ready(services)
        return reply({"name": model.name, "ready": True})

    async def infer(request: InferRequest, name: str, version: str = "1") -> Response:
        """Labels and probabilities of texts."""
        model = services.registry.find(name)
        if version != "1":
            raise Refusal(404, "the only version of a model is 1")
        texts = _texts(request)
        chosen = [output.name for output in request.outputs or []] or list(OUTPUTS)
        if not set(chosen) <= set(OUTPUTS):
            raise Refusal(422, f"the outputs are {', '.join(OUTPUTS)}", param="outputs")
        answers = await services.answering.answers(model, texts)
        content: dict[str, Any] = {"model_name": model.name, "model_version": "1"}
        if request.id is not None:
            content["id"] = request.id
        content["outputs"] = [_output(output, model, answers) for output in chosen]
        return reply(content, headers_for(model, answers))

    @routes.post("/v2/models/{name}/infer", responses=ERRORS)
    async def infer_latest(name: str, request: InferRequest) -> Response:
        """Labels and probabilities of texts."""
        return await infer(request, name)

    @routes.post("/v2/models/{name}/versions/{version}/infer", responses=ERRORS)
    async def infer_version(name: str, version: str, request: InferRequest) -> Response:
        """Labels and probabilities of texts."""
        return await infer(request, name, version)

    return routes


def _texts(request: InferRequest) -> list[Any]:
    if len(request.inputs) != 1:
        raise Refusal(422, "send one input tensor, with the texts", param="inputs")
    tensor = request.inputs[0]
    if tensor.datatype != "BYTES":
        raise Refusal(422, "the input's datatype must be BYTES", param="inputs")
    texts: list[Any] = []
    for item in tensor.data:
        texts += item if isinstance(item, list) else [item]
    if math.prod(tensor.shape) != len(texts):
        raise Refusal(422, "the input's shape and its data differ", param="inputs")
    return texts


def _output(name: str, model: Served, answers: Sequence[Answer]) -> dict[str, Any]:
    shape = [len(answers)]
    if name == "label":
        return _tensor(name, shape, "BYTES", [answer.label for answer in answers])
    if name == "probabilities":
        flat = [share for answer in answers for share in answer.probabilities]
        return _tensor(name, [*shape, len(model.labels)], "FP64", flat)
    return _tensor(name, shape, "BOOL", [getattr(answer, name) for answer in answers])


def _tensor(name: str, shape: list[int], datatype: str, data: list[Any]) -> dict[str, Any]:
    return {"name": name, "shape": shape, "datatype": datatype, "data": data}
