"""Random numbers as pure functions of integers: seeds per sample, bounded integers, keyed permutations."""

from __future__ import annotations

import struct
from enum import IntEnum
from functools import lru_cache
from hashlib import blake2b
from math import isqrt

import numpy as np
import numpy.typing as npt

# Measured: with fewer than 16 the orders of 6 videos are not equally likely, see tests/train/data/test_order.py.
NUM_ROUNDS = 20
NUM_KEYS = NUM_ROUNDS + 1  # and one that decides the parity
_DIGEST_BYTES = 64  # the most of one blake2b digest
Keys = npt.NDArray[np.uint64]
Indices = npt.NDArray[np.int64]


def below(rng: np.random.Generator, limit: int) -> int:
    """A whole number 0 <= value < limit, each equally likely; one double of the generator."""
    return int(rng.random() * limit)


class Stream(IntEnum):
    """The two streams of a run; the number enters the keys, so it never changes."""

    LABELLED = 0
    UNLABELLED = 1


class Choice(IntEnum):
    """What a generator chooses about one draw; the number enters the key, so it never changes."""

    CLIP = 0
    STRONG_RGB = 1
    STRONG_TG = 2
    BUFFER = 3  # for a slot: which clip is taken from its buffer, see tgtrain.data.sequential_batches


def sample_seed(seed: int, stream_id: int, pass_index: int, key: str, choice: int) -> np.random.Generator:
    """The generator for all random choices of one kind about one video in one pass.

    It depends on the arguments alone, so clips and augmentations are the same for any number of ranks and workers and
    after a resume. key: the video's key in the manifest. choice: see `Choice`.

    Only `.random()` doubles of it may be used: the stream of PCG64 and the bits of a double are fixed by numpy, the
    algorithms behind other methods are not. tests/train/data/test_order.py pins the first numbers.
    """
    key_hash = int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "little")
    numbers = struct.pack("<5Q", seed, stream_id, pass_index, key_hash, choice)
    # Ten 32-bit words whatever the values: SeedSequence would give small integers fewer words, and words could shift.
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(struct.unpack("<10I", numbers))))


@lru_cache(maxsize=256)
def round_keys(seed: int, stream_id: int, pass_index: int, *part: int) -> Keys:
    """uint64[NUM_KEYS] for one pass (or a part of one), independent between passes, streams, seeds and parts."""
    material = struct.pack(f"<{3 + len(part)}Q", seed, stream_id, pass_index, *part)
    digests = b"".join(
        blake2b(material, digest_size=_DIGEST_BYTES, salt=struct.pack("<Q", block)).digest()
        for block in range(-(-NUM_KEYS * 8 // _DIGEST_BYTES))
    )
    return np.frombuffer(digests, dtype="<u8", count=NUM_KEYS).astype(np.uint64)


def permute(indices: Indices, size: int, keys: Keys) -> Indices:
    """Images of `indices` under the permutations of 0..size-1 given by `keys` (uint64[NUM_KEYS, len(indices)]).

    A Feistel network on pairs (left < columns, right < rows) with columns * rows barely over `size`; an index that
    lands outside is sent through again until it lands inside (cycle walking), which keeps the map a bijection.
    """
    columns = isqrt(size - 1) + 1
    rows = -(-size // columns)
    walking = np.arange(len(indices))
    images = indices.astype(np.uint64)
    while len(walking):
        images[walking] = _feistel(images[walking], np.uint64(columns), np.uint64(rows), keys[:, walking])
        walking = walking[images[walking] >= np.uint64(size)]
    return images.astype(np.int64)


def _feistel(values: Keys, columns: np.uint64, rows: np.uint64, keys: Keys) -> Keys:
    # With two odd sides every round is an even permutation: exchanging 0 and 1 half the time makes odd ones as likely.
    values = values ^ ((values < np.uint64(2)) & keys[-1] & np.uint64(1))
    right, left = np.divmod(values, columns)
    for index, key in enumerate(keys[:-1]):
        if index % 2:
            right = (right + _mix(left ^ key)) % rows
        else:
            left = (left + _mix(right ^ key)) % columns
    return right * columns + left


def _mix(values: Keys) -> Keys:
    """The finaliser of splitmix64, without its last shift: the low 32 bits of the result are as good as random."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values >> np.uint64(32)
