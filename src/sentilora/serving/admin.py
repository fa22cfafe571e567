"""Adapters loaded, swapped and dropped while the server runs, with vLLM's routes."""

import asyncio
from pathlib import Path

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse
from pydantic import Field

from sentilora.errors import SentiloraError
from sentilora.folders.adapter_folder import AdapterFolder
from sentilora.serving.errors import Refusal
from sentilora.serving.routing import ERRORS, JsonRoute, Services, Strict
from sentilora.serving.served import Served
from sentilora.serving.worker import Unavailable

GRACE_SECONDS = 1.0  # for requests that have found their model and not begun


class LoadRequest(Strict):
    """An adapter below the adapter root. load_inplace: whether it may replace one of its name."""

    lora_name: str = Field(pattern=r"^[\w.:/-]{1,128}$")
    lora_path: str
    load_inplace: bool = False


class UnloadRequest(Strict):
    """An adapter to serve no longer."""

    lora_name: str


def router(services: Services) -> APIRouter:
    """The routes; they refuse everything on a server without an adapter root."""
    routes = APIRouter(route_class=JsonRoute, tags=["admin"])
    one_at_a_time = asyncio.Lock()
    under_way: set[asyncio.Task[None]] = set()  # that no client's leaving may cancel

    def retire(adapter: Served) -> None:
        task = asyncio.ensure_future(_retire(services, adapter))
        under_way.add(task)
        task.add_done_callback(under_way.discard)

    @routes.post("/v1/load_lora_adapter", responses=ERRORS, response_class=PlainTextResponse)
    async def load(request: LoadRequest) -> Response:
        """Load an adapter, check it, and only then serve it."""
        # A client that leaves must not end this halfway: the model's process would go on.
        task = asyncio.ensure_future(swap_in(request))
        under_way.add(task)
        task.add_done_callback(under_way.discard)
        await asyncio.shield(task)
        return PlainTextResponse("adapter loaded")

    async def swap_in(request: LoadRequest) -> None:
        path = _below_root(services.adapter_root, request.lora_path)
        registry, worker = services.registry, services.answering.worker
        async with one_at_a_time:
            if request.lora_name in registry.adapters and not request.load_inplace:
                raise Refusal(422, "this name is taken; `load_inplace` swaps it", param="lora_name")
            try:
                folder = await asyncio.to_thread(AdapterFolder.open, path)
                adapter = registry.read(request.lora_name, folder)
                await worker.add(adapter.key or "", str(folder.path))
            except SentiloraError as error:
                raise Refusal(422, error.problem, param="lora_path") from None
            except Unavailable:
                raise Refusal(503, "the model is restarting", retry_after=5) from None
            before = registry.put(adapter)
        if before is not None:
            retire(before)

    @routes.post("/v1/unload_lora_adapter", responses=ERRORS, response_class=PlainTextResponse)
    async def unload(request: UnloadRequest) -> Response:
        """Serve an adapter no longer. Requests in flight end on it."""
        _require_root(services.adapter_root)
        retire(services.registry.remove(request.lora_name))
        return PlainTextResponse("adapter dropped")

    return routes


def _require_root(root: Path | None) -> Path:
    if root is None:
        raise Refusal(403, "this server was started without `adapter_root`")
    return root


def _below_root(root: Path | None, path: str) -> Path:
    """A path below the root, links resolved. Raises `Refusal` for any other."""
    root = _require_root(root).resolve()
    try:
        whole = (root / path).resolve()
    except (OSError, ValueError, RuntimeError):
        whole = root.parent
    if not whole.is_relative_to(root):
        raise Refusal(422, "the path is not below the adapter root", param="lora_path")
    return whole


async def _retire(services: Services, adapter: Served) -> None:
    """Free an adapter once its last request has ended."""
    await asyncio.sleep(GRACE_SECONDS)
    while adapter.num_active:
        await asyncio.sleep(0.05)
    try:
        await services.answering.worker.drop(adapter.key or "")
    except (Unavailable, SentiloraError):
        return  # a new process will not load it
