"""Unpacking within limits: gzip, zlib and bare streams, cut and damaged ones; packed by the standard library."""

from __future__ import annotations

import gzip
import random
import zlib

import pytest

from generative.datasets.databases.bodies import UnusableBodyError, as_utf8, parse_json, read_body
from generative.datasets.databases.errors import BrokenReplyError, EndlessReplyError

MANY = 10**9


def bare(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


PACKERS = {"gzip": gzip.compress, "x-gzip": gzip.compress, "deflate": zlib.compress, "Deflate ": bare}


def chunks(data: bytes, rng: random.Random) -> list[bytes]:
    """The data in pieces of any size, empty ones among them."""
    cuts = sorted(rng.choices(range(len(data) + 1), k=8))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


@pytest.mark.parametrize("encoding", PACKERS)
def test_a_packed_body_comes_out_whole_however_it_was_cut_into_chunks(encoding: str) -> None:
    rng = random.Random(1)
    for n in (0, 1, 1000, 3_000_000):
        data = rng.randbytes(n // 2) + b"a" * (n - n // 2)
        for _ in range(3):
            sent = chunks(PACKERS[encoding](data), rng)
            assert read_body(sent, {"content-encoding": encoding}, MANY) == data


def test_two_gzip_members_are_one_body_and_padding_behind_them_is_none() -> None:
    packed = gzip.compress(b'{"a": ') + gzip.compress(b"1}") + b"\x00" * 100
    for size in (1, 7, len(packed)):
        sent = [packed[i : i + size] for i in range(0, len(packed), size)]
        assert read_body(sent, {"content-encoding": "gzip"}, MANY) == b'{"a": 1}'


@pytest.mark.parametrize("encoding", PACKERS)
def test_a_stream_cut_at_any_byte_is_noticed(encoding: str) -> None:
    packed = PACKERS[encoding](bytes(random.Random(2).choices(b"abc", k=300)))
    for n in range(len(packed)):
        with pytest.raises(UnusableBodyError) as caught:
            read_body([packed[:n]], {"content-encoding": encoding}, MANY)
        assert caught.value.failure.kind is BrokenReplyError


def test_damage_to_any_byte_of_a_gzip_stream_never_gives_other_data() -> None:
    data = bytes(random.Random(3).choices(b"abcdefgh", k=400))
    packed = gzip.compress(data, mtime=0)
    n_noticed = 0
    for i in range(10, len(packed)):  # behind the head, whose time and name mean nothing
        damaged = bytearray(packed)
        damaged[i] ^= 0x10
        try:
            came = read_body([bytes(damaged)], {"content-encoding": "gzip"}, MANY)
        except UnusableBodyError:
            n_noticed += 1
        else:
            assert came == data  # the bits that fill up the last byte mean nothing
    assert n_noticed >= len(packed) - 11


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, br"])
def test_a_packing_that_was_not_asked_for_is_refused_by_name(encoding: str) -> None:
    with pytest.raises(UnusableBodyError, match=encoding):
        read_body([b"{}"], {"content-encoding": encoding}, MANY)


@pytest.mark.parametrize("encoding", ["identity", *PACKERS])
def test_the_limit_is_on_what_comes_out_to_the_byte(encoding: str) -> None:
    data = b" " * 5_000_000
    sent = [PACKERS.get(encoding, bytes)(data)]
    assert len(read_body(sent, {"content-encoding": encoding}, 5_000_000)) == 5_000_000
    with pytest.raises(UnusableBodyError, match=r"more than 5 MB") as caught:
        read_body(sent, {"content-encoding": encoding}, 4_999_999)
    assert caught.value.failure.kind is EndlessReplyError


def test_what_is_sent_behind_the_end_of_a_stream_counts_too() -> None:
    sent = (piece for piece in [gzip.compress(b"{}"), *[b"\x00" * 1000] * 1000])
    with pytest.raises(UnusableBodyError, match="more than"):
        read_body(sent, {"content-encoding": "gzip"}, 100_000)
    assert next(sent)  # and the rest was not fetched


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_json_in_any_unicode_encoding_becomes_utf8(encoding: str) -> None:
    assert as_utf8('{"é": "Å³"}'.encode(encoding)) == '{"é": "Å³"}'.encode()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" \n",
        b"{",
        b'{"a": 1',
        b"[1,]",
        b"<html>",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"a": 1}{"b": 2}',
    ],
    ids=lambda body: repr(body[:12]),
)
def test_what_is_no_complete_json_is_broken(body: bytes) -> None:
    with pytest.raises(UnusableBodyError) as caught:
        parse_json(as_utf8(body), "application/json")
    assert caught.value.failure.kind is BrokenReplyError
    assert len(caught.value.failure.what) < 250
