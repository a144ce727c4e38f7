"""Inputs that are nearly right: bytes of real files with a few changes, drawn from a seed."""

from __future__ import annotations

import random
from collections.abc import Sequence

_ANY = (
    b"\0",
    b"\xff",
    b"\n",
    b"\r",
    b" ",
    b'"',
    b"\\",
    b"-1",
    b"0",
    b"9" * 20,
    b"9" * 5000,
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b"\xed\xa0\x80",
)


class Mutator:
    """Draws changed copies of `seeds`. tokens: what the format gives a meaning; hot: (start, size) of places that count most."""

    def __init__(
        self, seed: int, seeds: Sequence[bytes], tokens: Sequence[bytes] = (), hot: Sequence[tuple[int, int]] = ()
    ):
        self.draw, self.seeds, self.tokens, self.hot = random.Random(seed), list(seeds), (*_ANY, *tokens), list(hot)

    def next(self) -> bytes:
        """A copy with one to four changes."""
        content = bytearray(self.draw.choice(self.seeds))
        for _ in range(self.draw.choice((1, 1, 1, 2, 3, 4))):
            self._change(content)
        return bytes(content)

    def _place(self, content: bytearray) -> int:
        if self.hot and self.draw.random() < 0.8:
            start, size = self.draw.choice(self.hot)
            return min(len(content), start + self.draw.randrange(size))
        return self.draw.randrange(len(content) + 1)

    def _change(self, content: bytearray) -> None:
        place, kind, size = self._place(content), self.draw.randrange(9), self.draw.choice((1, 1, 2, 8, 64, 512))
        token = self.draw.choice(self.tokens)
        if kind == 0 and place < len(content):
            content[place] ^= 1 << self.draw.randrange(8)
        elif kind == 1:
            content[place : place + size] = self.draw.randbytes(size)
        elif kind == 2:
            del content[place:]
        elif kind == 3:
            del content[place : place + size]
        elif kind == 4:
            content[place:place] = content[place : place + size] * self.draw.choice((1, 2, 50))
        elif kind in (5, 6):
            content[place:place] = token
        elif kind == 7:
            content[place : place + len(token)] = token
        else:  # a piece of another seed
            other = self.draw.choice(self.seeds)
            start = self.draw.randrange(len(other) + 1)
            content[place : place + size] = other[start : start + size]
