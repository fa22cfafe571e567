"""The hub of models and datasets: where it is, and whether it answers, checked before a download.

`huggingface_hub.constants` is imported inside the functions, because it reads the environment
(`HF_ENDPOINT`, `HF_HUB_OFFLINE`) when it is imported.
"""

import re
import socket
from urllib.parse import urlparse
from urllib.request import getproxies

from sentilora.errors import DataError


def require_hub(name: str, remedy: str) -> None:
    """Raise `DataError` within seconds if `name` needs a download and the hub is unreachable.

    Does nothing in offline mode (`HF_HUB_OFFLINE`), where the cache is used, or behind a proxy.
    remedy: how to do without the hub.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or hub_reachable():
        return
    raise DataError(
        f"{name!r} is not a local file or folder, and the hub ({hub_endpoint()}) is not reachable",
        seen=name,
        remedy=f"{remedy}, or set HF_HUB_OFFLINE=1 to use what is cached",
    )


def hub_endpoint() -> str:
    """Address of the hub, without a slash at the end."""
    from huggingface_hub import constants

    return constants.ENDPOINT


def hub_reachable(timeout_seconds: float = 3.0) -> bool:
    """Whether a connection to the hub can be opened; behind a proxy this is assumed."""
    if {"https", "all"} & getproxies().keys():
        return True
    url = urlparse(hub_endpoint())
    port = url.port or (443 if url.scheme == "https" else 80)
    try:
        socket.create_connection((url.hostname or "", port), timeout_seconds).close()
    except OSError:
        return False
    return True


def looks_like_hub_id(name: str) -> bool:
    """Whether a name that is no local path can be the id of a repository on the hub."""
    return bool(re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", name)) and not is_gguf(name)


def is_gguf(name: str) -> bool:
    """Whether a name is that of a GGUF file, by its suffix."""
    return name.lower().endswith(".gguf")
