"""Seeds are derived, never drawn, so that a restart or another worker gets the same ones."""

import hashlib


def shared_seed(seed: int, index: int) -> int:
    """Training seed ``index`` (from 0) of those that the sweep with ``seed`` trains its best configurations with
    again: the same for all of them, so that they can be compared in pairs."""
    return derive_seed(seed, "again", index)


def derive_seed(*parts: int | str) -> int:
    """A seed in [0, 2**32) that depends on all ``parts`` and on nothing else.

    SHA-256 rather than ``hash``: the latter changes from process to process.
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
