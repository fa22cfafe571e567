"""The hub of models and data sets: where it is, and whether it answers, asked before a download."""

import os
import re
import socket
from urllib.parse import urlparse

from sentilora.errors import DataError


def require_hub(name: str, remedy: str) -> None:
    """Raise `DataError` within seconds when `name` would be downloaded and the hub is out of reach.

    Does nothing when the user works from the cache (`HF_HUB_OFFLINE`) or through a proxy.
    """
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        return
    if not hub_reachable():
        raise DataError(
            f"{name!r} is no local file or folder, and the hub ({hub_endpoint()}) is not "
            f"reachable; {remedy}, HF_HUB_OFFLINE=1 uses what is cached"
        )


def hub_endpoint() -> str:
    """Address of the hub, as `HF_ENDPOINT` or huggingface_hub has it."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def hub_reachable(timeout_seconds: float = 3.0) -> bool:
    """Whether a connection to the hub can be opened (assumed so behind a proxy)."""
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY")):
        return True
    url = urlparse(hub_endpoint())
    port = url.port or (443 if url.scheme == "https" else 80)
    try:
        socket.create_connection((url.hostname or "", port), timeout_seconds).close()
    except OSError:
        return False
    return True


def looks_like_hub_id(name: str) -> bool:
    """Whether a name that is no local path can be a repository on the hub."""
    return bool(re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", name))
