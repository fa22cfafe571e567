"""Who may call what: keys, the addresses that need one, and pages of other sites."""

import hmac
import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

from sentilora.errors import UsageError
from sentilora.serving.errors import Refusal

# Liveness, and the page's static files: a browser sends no key when it opens them.
OPEN_PATHS = ("/livez", "/v2/health/live", "/")
OPEN_FOLDER = "/page/"
ADMIN_PATHS = ("/v1/load_lora_adapter", "/v1/unload_lora_adapter")


class Keys:
    """The keys of a server. Without any, only this machine can reach it, and may do everything."""

    def __init__(self, api_key: str | None, admin_key: str | None) -> None:
        self._api = None if api_key is None else api_key.encode()
        self._admin = None if admin_key is None else admin_key.encode()

    def check(self, path: str, headers: Mapping[bytes, bytes]) -> None:
        """Raise `Refusal` unless the request's key opens this path."""
        if path in OPEN_PATHS or path.startswith(OPEN_FOLDER):
            return
        if self._api is None:
            _require_own_name(headers)
        if self._api is None and self._admin is None:
            return
        key = _key_in(headers)
        is_admin, is_user = _equal(key, self._admin), _equal(key, self._api)
        if not (is_admin or is_user):
            raise Refusal(401, "Unauthorized")
        if path in ADMIN_PATHS and not is_admin:
            raise Refusal(403, "this route needs the admin key")


def require_own_page(headers: Mapping[bytes, bytes]) -> None:
    """Raise `Refusal` for what a page of another site lets a browser send.

    Such a page cannot read an answer, but it could label texts, or load an adapter.
    """
    site = headers.get(b"sec-fetch-site")  # of every browser, except to another machine by HTTP
    origin = headers.get(b"origin")
    if site is not None:
        is_own = site in (b"same-origin", b"none")
    else:
        is_own = origin is None or urlsplit(origin).netloc == headers.get(b"host")
    if not is_own:
        raise Refusal(403, "this comes from a page of another site")


def _require_own_name(headers: Mapping[bytes, bytes]) -> None:
    """Raise `Refusal` unless a server without a key is called by a name of this machine.

    A page elsewhere can let its own name lead here, and would be this server's page to a browser.
    """
    host = headers.get(b"host", b"localhost").decode("latin-1")
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        name = ""
    if not is_loopback(name):
        raise Refusal(403, "a server without a key answers to localhost only, not to other names")


def _key_in(headers: Mapping[bytes, bytes]) -> bytes:
    scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" else headers.get(b"x-api-key", b"")


def _equal(key: bytes, expected: bytes | None) -> bool:
    return expected is not None and hmac.compare_digest(key, expected)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def require_key(host: str, api_key: str | None, admin_key: str | None) -> None:
    """Raise `UsageError` for an address that others reach without a key, and for a weak key."""
    for name, key in (("api_key", api_key), ("admin_key", admin_key)):
        if key is not None and (not key.strip() or not key.isascii()):
            raise UsageError(
                f"`{name}` is empty or not ASCII", setting=name, remedy="choose another key"
            )
    if api_key is None and not is_loopback(host):
        raise UsageError(
            f"{host} is reached from other machines, and there is no API key",
            setting="host",
            seen=host,
            remedy="set SENTILORA_API_KEY (or `api_key`), or listen on 127.0.0.1",
        )
    if admin_key is not None and admin_key == api_key:
        raise UsageError(
            "`admin_key` is the same as `api_key`", setting="admin_key", remedy="choose another"
        )
