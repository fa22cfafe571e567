"""Messages on the pipe: what goes in comes out, in any pieces; what is no message is refused."""

import asyncio
import io
import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentilora.serving import protocol

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
MESSAGES = st.dictionaries(st.text(), VALUES, max_size=4)


@given(st.lists(MESSAGES, max_size=4))
def test_messages_come_out_as_they_went_in(messages):
    stream = io.BytesIO(b"".join(map(protocol.encode, messages)))
    assert [protocol.read(stream) for _ in messages] == messages
    assert protocol.read(stream) is None


@given(st.lists(MESSAGES, min_size=1, max_size=3), st.integers(1, 7))
def test_asyncio_reads_the_same_from_any_pieces(messages, size):
    data = b"".join(map(protocol.encode, messages))

    async def read_all():
        stream = asyncio.StreamReader()
        for start in range(0, len(data), size):
            stream.feed_data(data[start : start + size])
        stream.feed_eof()
        return [await protocol.read_async(stream) for _ in range(len(messages) + 1)]

    assert asyncio.run(read_all()) == [*messages, None]


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_keeps_its_bits(value):
    [back] = protocol.read(io.BytesIO(protocol.encode({"x": [value]})))["x"]
    assert struct.pack(">d", back) == struct.pack(">d", value)
    assert math.copysign(1, back) == math.copysign(1, value)


@given(MESSAGES, st.data())
def test_a_message_cut_short_is_refused(message, data):
    whole = protocol.encode(message)
    part = whole[: data.draw(st.integers(1, len(whole) - 1))]
    with pytest.raises(protocol.BrokenPipe):
        protocol.read(io.BytesIO(part))

    async def read():
        stream = asyncio.StreamReader()
        stream.feed_data(part)
        stream.feed_eof()
        await protocol.read_async(stream)

    with pytest.raises(protocol.BrokenPipe):
        asyncio.run(read())


@pytest.mark.parametrize(
    "data", [b"\xff\xff\xff\xff{}", b"\x00\x00\x00\x02[]", b"\x00\x00\x00\x02{x"]
)
def test_what_is_no_message_is_refused(data):
    with pytest.raises(protocol.BrokenPipe):
        protocol.read(io.BytesIO(data))
