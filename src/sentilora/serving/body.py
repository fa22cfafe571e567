"""Request bodies: counted while they are read, unpacked within the limit, strict JSON."""

import json
import re
import zlib
from collections.abc import Mapping
from typing import Any

import orjson

from sentilora.serving.errors import Refusal

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")


def check_type(headers: Mapping[bytes, bytes]) -> None:
    """Raise `Refusal` unless the body's type is JSON, or is left out."""
    kind = headers.get(b"content-type", b"application/json").partition(b";")[0].strip().lower()
    if kind != b"application/json" and not kind.endswith(b"+json"):
        raise Refusal(415, "the Content-Type must be application/json")


def too_large(limit: int) -> Refusal:
    """The refusal of a body with more bytes than the limit."""
    return Refusal(413, f"the body has more than {limit:,} bytes (`max_body_bytes`)")


def unpacked(body: bytes, encoding: bytes, limit: int) -> bytes:
    """The body without its Content-Encoding. Never more than `limit` bytes are unpacked."""
    encoding = encoding.strip().lower()
    if encoding in (b"", b"identity"):
        return body
    if encoding == b"zstd":
        return _from_zstd(body, limit)
    if encoding not in (b"gzip", b"deflate"):
        raise Refusal(400, "the Content-Encoding must be gzip, deflate, zstd or identity")
    unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # either header
    try:
        whole = unpacker.decompress(body, limit + 1)
    except zlib.error:
        raise Refusal(400, "the body is not what its Content-Encoding says") from None
    if len(whole) > limit:
        raise too_large(limit)
    if not unpacker.eof:
        raise Refusal(400, "the body's compressed data is cut short")
    return whole


def _from_zstd(body: bytes, limit: int) -> bytes:
    """A body unpacked, as TypeSafe's client packs it from Python 3.14 on."""
    import pyarrow

    whole = b""
    try:
        with pyarrow.CompressedInputStream(pyarrow.BufferReader(body), "zstd") as stream:
            while part := stream.read(limit + 1 - len(whole)):
                whole += part
                if len(whole) > limit:
                    raise too_large(limit)
    except OSError:
        raise Refusal(400, "the body is not what its Content-Encoding says") from None
    return whole


def parsed(body: bytes) -> Any:
    """The body's JSON. Raises `Refusal` for NaN, lone surrogates, and keys that are there twice."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        if _SURROGATE.search(body) and _is_json(body):
            raise Refusal(422, f"a string holds half a surrogate pair ({place})") from None
        raise Refusal(400, f"the body is not JSON ({place})") from None
    _refuse_repeated_keys(body)
    return value


def _is_json(body: bytes) -> bool:
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return False
    return True


def _refuse_repeated_keys(body: bytes) -> None:
    """Raise `Refusal` when an object has a key twice: readers differ on which one counts."""

    def check(pairs: list[tuple[str, Any]]) -> None:
        if len({key for key, _ in pairs}) < len(pairs):
            raise Refusal(400, "an object in the body has the same key twice")

    try:
        json.loads(body, object_pairs_hook=check)
    except (ValueError, RecursionError):
        raise Refusal(400, "the body is not JSON, or too deep") from None
