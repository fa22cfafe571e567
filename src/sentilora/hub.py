"""The hub of models and datasets: where it is, and whether it answers, checked before a download.

`huggingface_hub.constants` is imported inside the functions, because it reads the environment
(`HF_ENDPOINT`, `HF_HUB_OFFLINE`) when it is imported.
"""

import re
import socket
from urllib.parse import urlparse
from urllib.request import getproxies

from sentilora.errors import DataError, UsageError
from sentilora.wording import quoted


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


def require_hub_to_upload(repository: str) -> None:
    """Raise `UsageError` if nothing can be uploaded to a repository: no name for one, or no hub."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise UsageError(
            f"{repository!r:.60} is no name of a repository on the hub",
            setting="push_to_hub",
            seen=repository,
            remedy="name it user/name",
        ) from error
    fault = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else ""
    if not fault and not hub_reachable():
        fault = f"the hub ({hub_endpoint()}) is not reachable"
    if fault:
        raise DataError(
            f"nothing can be uploaded to {quoted(repository)}: {fault}",
            setting="push_to_hub",
            seen=repository,
            remedy="leave out `push_to_hub` and upload the folder later",
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
