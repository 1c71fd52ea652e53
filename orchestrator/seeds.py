"""Seeds are derived, never drawn, so that a restart or another worker gets the same ones."""

import hashlib


def derive_seed(*parts: int | str) -> int:
    """A seed in [0, 2**32) that depends on all ``parts`` and on nothing else.

    SHA-256 rather than ``hash``: the latter changes from process to process.
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
