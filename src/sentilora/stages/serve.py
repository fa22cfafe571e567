"""Serve adapters over HTTP.

sentilora serve
sentilora serve --adapter films=./my-adapter --port 8080
"""

import asyncio
import os
import socket
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Unpack, cast

from sentilora.errors import UsageError
from sentilora.folders.adapter_folder import AdapterFolder
from sentilora.models.runtime import Runtime, RuntimeOverrides
from sentilora.progress import say
from sentilora.shipped import page_folder, shipped_adapter
from sentilora.stages.named_base import named_base

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PACKAGES = ("fastapi", "uvicorn", "orjson", "prometheus_client")
DEFAULT = "default"  # name of the adapter that ships


def serve(
    adapter: str | Path | Mapping[str, str | Path] | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    base: str | Path | None = None,
    quantization: Literal["nf4", "none"] | None = None,
    api_key: str | None = None,
    admin_key: str | None = None,
    adapter_root: str | Path | None = None,
    review_store: str | Path | None = None,
    on_long: Literal["cut", "error"] = "cut",
    max_wait: float = 5.0,
    deadline: float = 60.0,
    max_texts: int = 256,
    max_pass_tokens: int | None = None,
    max_body_bytes: int = 4 * 2**20,
    shutdown_timeout: float = 30.0,
    **runtime: Unpack[RuntimeOverrides],
) -> None:
    """Serve adapters over HTTP until SIGTERM or Ctrl-C; docs/guide/serve.md has the routes.

    adapter: folder of an adapter, or {name: folder} of several on one base; None serves the one
    that ships, as "default". api_key, admin_key: what requests, and those that change adapters,
    must carry; the first is needed on any host that other machines reach. adapter_root: below it
    adapters are loaded at run time. review_store: SQLite file for texts labeled on the page.
    on_long: whether a text that does not fit is cut as in training, or refused. max_wait: predicted
    seconds of waiting from which requests are refused. deadline: seconds after which a waiting
    text is given up. max_pass_tokens: tokens of a pass; None chooses by the device. base,
    quantization and the keywords of `Runtime`: as in `Classifier.load`. Raises `DataError` and
    `UsageError`; see `errors`.
    """
    _require_packages()
    from uvicorn.loops.auto import auto_loop_factory

    from sentilora.serving.answering import Answering, Limits
    from sentilora.serving.metrics import Metrics
    from sentilora.serving.security import Keys, require_key
    from sentilora.serving.server import Server, listening_socket
    from sentilora.serving.worker import Worker

    require_key(host, api_key, admin_key)
    Runtime().override(**runtime).require_possible()  # before anything is read
    folders = {name: AdapterFolder.open(path) for name, path in _named(adapter).items()}
    first = next(iter(folders.values()))
    base = named_base(base)
    reference = first.base_to_load(base, quantization)
    is_path = os.path.exists(os.path.expanduser(reference.name))
    metrics = Metrics()
    options = {"base": None if base is None else str(base), "quantization": quantization, **runtime}
    worker = Worker(options, max_pass_tokens, metrics.observe_pass)
    metrics.watch(worker)
    limits = Limits(max_wait, max_texts, deadline, on_long == "error")
    answering = Answering(worker, limits, metrics.observe_answer)
    root = None if adapter_root is None else Path(adapter_root)
    store = None if review_store is None else Path(review_store)

    async def run(sock: socket.socket) -> None:
        await worker.spawn()
        # The other half of a second of imports, while that process imports torch.
        from sentilora.serving.app import create_app, gated
        from sentilora.serving.routing import Services
        from sentilora.serving.served import Registry
        from sentilora.serving.tokenizer import BareTokenizer

        tokenizer = BareTokenizer(**await worker.tokenizer(reference.name, reference.revision))
        base_name = Path(reference.name).name if is_path else reference.name
        registry = Registry(cast("PreTrainedTokenizerBase", tokenizer), base_name)
        for name, folder in folders.items():
            registry.put(registry.read(name, folder))
        services = Services(registry, answering, metrics, root, store)
        app = create_app(services, page_folder())
        shown = f"[{host}]" if ":" in host else host
        say(f"listening on http://{shown}:{sock.getsockname()[1]}, the model is loading")
        gate = gated(app, services, Keys(api_key, admin_key), max_body_bytes)
        server = Server(gate, answering, shutdown_timeout)
        pairs = [(one.key or "", one.path or "") for one in registry.adapters.values()]
        await server.run_with(pairs, sock)

    async def run_and_end(sock: socket.socket) -> None:
        try:
            await run(sock)
        finally:
            await worker.stop(0.0)

    with (
        listening_socket(host, port) as sock,
        asyncio.Runner(loop_factory=auto_loop_factory()) as runner,  # uvloop where it exists
    ):
        runner.run(run_and_end(sock))


def _require_packages() -> None:
    """Raise `UsageError` when packages of the extra `serve` are not installed."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise UsageError(
            f"the server needs packages that are not installed: {', '.join(missing)}",
            remedy="pip install 'sentilora[serve]'",
        )


def _named(adapter: str | Path | Mapping[str, str | Path] | None) -> dict[str, str | Path]:
    """The folders of the adapters to serve, by name."""
    if adapter is None:
        return {DEFAULT: shipped_adapter()}
    if isinstance(adapter, Mapping):
        if not adapter:
            raise UsageError("there is no adapter to serve", setting="adapter", remedy="name one")
        return dict(adapter)
    return {Path(os.path.abspath(adapter)).name: adapter}
