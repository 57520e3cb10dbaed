"""From the bytes on the line to JSON: unpacked within a limit, complete, without a byte-order mark.

The libraries' own unpacking is not used: both hand out a gzip stream that was cut off as if it were whole.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from generative.datasets.databases.failures import Failure, broken, endless, quoted
from generative.datasets.formats.tolerant_json import may_be_deep, parsed, shallow, without_lone_surrogates

BEGINNING_CHARACTERS = 80
GZIP_START = b"\x1f\x8b"
UNPACK_BYTES = 1 << 20
"""Unpacked at once: one packed byte may stand for a thousand, so the limit is looked at on the way."""


class UnusableBodyError(Exception):
    """A body that cannot be used; carries the failure."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.what)
        self.failure = failure


def read_body(chunks: Iterable[bytes], headers: Mapping[str, str], n_bytes_max: int) -> bytes:
    """The whole body, unpacked.

    Args:
        chunks: bytes as they came.
        headers: of the reply, names in lower case.
        n_bytes_max: most bytes, unpacked.

    Raises:
        UnusableBodyError: larger than allowed, cut off, or packed in another way than was asked for.
    """
    encoding = headers.get("content-encoding", "identity").strip().lower() or "identity"
    if encoding not in {"identity", "gzip", "x-gzip", "deflate"}:
        raise UnusableBodyError(broken(f"sent a reply packed as {encoding[:40]!r}, which was not asked for"))
    sent = _limited(chunks, n_bytes_max)  # packed bytes are counted too: what follows a stream's end unpacks to nothing
    pieces = sent if encoding == "identity" else _limited(_unpacked(sent, encoding), n_bytes_max)
    return b"".join(pieces)


def _limited(pieces: Iterable[bytes], n_bytes_max: int) -> Iterator[bytes]:
    n_bytes = 0
    for piece in pieces:
        n_bytes += len(piece)
        if n_bytes > n_bytes_max:
            raise UnusableBodyError(endless(f"sent a reply of more than {n_bytes_max / 1e6:g} MB (reply_mb_max)"))
        yield piece


def _unpacked(chunks: Iterable[bytes], encoding: str) -> Iterator[bytes]:
    """The unpacked bytes, a piece at a time.

    Raises:
        UnusableBodyError: the stream is damaged, or ends before its own end.
    """
    unpacker = None
    for chunk in chunks:
        waiting = chunk
        while waiting:
            if unpacker is None:
                unpacker = zlib.decompressobj(_window_bits(encoding, waiting))
            try:
                piece = unpacker.decompress(waiting, UNPACK_BYTES)
            except zlib.error:
                raise UnusableBodyError(broken(f"sent a damaged {encoding} stream")) from None
            if piece:
                yield piece
            waiting = unpacker.unconsumed_tail
            if unpacker.eof:
                waiting = unpacker.unused_data
                if not waiting.startswith(GZIP_START):
                    break  # nothing, or padding after the end; a second gzip member otherwise
                unpacker = None
    while unpacker is not None and not unpacker.eof:
        piece = unpacker.decompress(b"", UNPACK_BYTES)
        if not piece:
            break
        yield piece
    if unpacker is None or not unpacker.eof:
        raise UnusableBodyError(broken(f"sent a {encoding} stream that was cut off"))


def _window_bits(encoding: str, start: bytes) -> int:
    if encoding != "deflate":
        return 16 + zlib.MAX_WBITS
    # 'deflate' means zlib's wrapping; some servers send it bare. The low half of zlib's first byte is 8.
    return zlib.MAX_WBITS if start[0] & 0x0F == 8 else -zlib.MAX_WBITS


def as_utf8(body: bytes) -> bytes:
    """JSON text as UTF-8 without a byte-order mark; bytes that are no text, as they are."""
    try:
        return body.decode(json.detect_encoding(body)).removeprefix("\ufeff").encode()
    except UnicodeError:
        return body


def parse_json(body: bytes, content_type: str) -> tuple[Any, bytes]:
    """The JSON, and its text in which NaN and Infinity are null, and what is out of all bounds is a text that says so.

    Strict readers (mp-api's) refuse the literals NaN and Infinity; JSON's word for a number that is none is null.

    Args:
        body: UTF-8, without keys.
        content_type: as stated; a wrong one does no harm to JSON, and is told if the body is none.

    Raises:
        UnusableBodyError: the body is no complete JSON.
    """
    literals: list[str] = []
    body = without_lone_surrogates(body)
    if may_be_deep(body):
        body = shallow(body.decode("utf-8", "replace")).encode()
    try:
        value, is_replaced = parsed(body, parse_constant=literals.append)
    except ValueError:
        raise UnusableBodyError(broken(_no_json(body, content_type))) from None
    return value, json.dumps(value).encode() if literals or is_replaced else body


def _no_json(body: bytes, content_type: str) -> str:
    kind = content_type.split(";")[0].strip()[:60] or "no stated type"
    if not body.strip():
        return f"sent an empty reply ({kind}) where JSON was expected"
    beginning = body.decode("utf-8", "replace")[:BEGINNING_CHARACTERS]
    return f"sent {kind} that is no complete JSON{quoted(beginning)}"
