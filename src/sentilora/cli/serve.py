"""`sentilora serve`."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from sentilora.cli.options import Quantization, name_shipped_adapter, quiet, with_runtime_options
from sentilora.errors import UsageError

Adapters = Annotated[
    list[str] | None,
    typer.Option(
        "--adapter",
        metavar="[NAME=]DIR",
        help="Folder of an adapter; with names, several on one base.",
        show_default="the one that ships, for English film reviews",
    ),
]
Host = Annotated[str, typer.Option(help="Address to listen on; all but this machine need a key.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: a free one.")]
Base = Annotated[
    str | None,
    typer.Option(
        help="Where the adapter's base is now: a folder, a .gguf file, a hub id or a preset's name."
    ),
]
ApiKey = Annotated[
    str | None,
    typer.Option(envvar="SENTILORA_API_KEY", help="Key that every request must carry."),
]
AdminKey = Annotated[
    str | None,
    typer.Option(envvar="SENTILORA_ADMIN_KEY", help="Key for loading and dropping adapters."),
]
AdapterRoot = Annotated[
    Path | None, typer.Option(help="Folder below which adapters may be loaded at run time.")
]
ReviewStore = Annotated[
    Path | None, typer.Option(help="SQLite file for texts labeled on the page; without: none kept.")
]
OnLong = Annotated[
    Literal["cut", "error"], typer.Option(help="Texts that do not fit: cut as in training, or 422.")
]
MaxWait = Annotated[
    float, typer.Option(min=0, help="Predicted wait in seconds from which requests get 429.")
]
Deadline = Annotated[
    float, typer.Option(min=0, help="Seconds after which a waiting text gets 504.")
]
MaxTexts = Annotated[int, typer.Option(min=1, help="Largest number of texts in a request.")]
MaxPassTokens = Annotated[
    int | None,
    typer.Option(min=1, help="Tokens that share a pass.", show_default="4096; 16384 on a GPU"),
]
MaxBodyBytes = Annotated[int, typer.Option(min=1, help="Largest body of a request, unpacked.")]
ShutdownTimeout = Annotated[
    float, typer.Option(min=0, help="Seconds to finish requests after SIGTERM.")
]


@with_runtime_options
def serve(
    adapter: Adapters = None,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    base: Base = None,
    quantization: Quantization = None,
    api_key: ApiKey = None,
    admin_key: AdminKey = None,
    adapter_root: AdapterRoot = None,
    review_store: ReviewStore = None,
    on_long: OnLong = "cut",
    max_wait: MaxWait = 5.0,
    deadline: Deadline = 60.0,
    max_texts: MaxTexts = 256,
    max_pass_tokens: MaxPassTokens = None,
    max_body_bytes: MaxBodyBytes = 4 * 2**20,
    shutdown_timeout: ShutdownTimeout = 30.0,
    **runtime: Any,
) -> None:
    """Serve adapters over HTTP: the API, and a page to try them."""
    from sentilora.stages.serve import serve as run

    if adapter is None:
        name_shipped_adapter()
    quiet()
    run(
        adapters_by_name(adapter),
        host=host,
        port=port,
        base=base,
        quantization=quantization,
        api_key=api_key,
        admin_key=admin_key,
        adapter_root=adapter_root,
        review_store=review_store,
        on_long=on_long,
        max_wait=max_wait,
        deadline=deadline,
        max_texts=max_texts,
        max_pass_tokens=max_pass_tokens,
        max_body_bytes=max_body_bytes,
        shutdown_timeout=shutdown_timeout,
        **runtime,
    )


def adapters_by_name(values: list[str] | None) -> dict[str, str | Path] | None:
    """{name: folder} from the values of --adapter. A folder without a name is called as it is."""
    if values is None:
        return None
    folders: dict[str, str | Path] = {}
    for value in values:
        name, separator, folder = value.partition("=")
        if os.path.exists(value) or not separator:
            name, folder = Path(os.path.abspath(value)).name, value
        if not name or name in folders:
            raise UsageError(
                f"`adapter` names {name!r} twice" if name else f"`adapter` {value!r} has no name",
                setting="adapter",
                seen=value,
                remedy="write `adapter` NAME=DIR, each name once",
            )
        folders[name] = folder
    return folders
