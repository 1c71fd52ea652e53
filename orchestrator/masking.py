"""Passwords and tokens out of whatever is shown, logged, tracked or kept."""

import logging
import re
from typing import Any

_ADDRESS = re.compile(r"(\b[a-zA-Z][\w+.-]*://)[^\s/]+@")
"""scheme://user:password@host and scheme://token@host; up to the last @, because a password may hold one."""
_CREDENTIALS = re.compile(r"[^\s/:@='\"]+:[^\s/:@]+@(?=[\w\[])")
"""user:password@host without a scheme, or with a misspelt one."""
_SETTING = re.compile(
    r"(?i)\b([\w.-]*(?:password|passwd|secret|token|api_?key|credential)[\w.-]*\s*[=:]\s*)[^\s&,;'\"}]+"
)
"""password=..., api_key: ..., also in an address's query or a command line."""
_SECRET_KEY = re.compile(r"(?i)password|passwd|secret|token$|api_?key|credential")


def mask_addresses(text: str) -> str:
    """``text`` without passwords and tokens in addresses."""
    return _CREDENTIALS.sub("***@", _ADDRESS.sub(r"\1***@", text))


def mask(text: str) -> str:
    """``text`` without passwords and tokens in addresses and settings."""
    return _SETTING.sub(r"\1***", mask_addresses(text))


def masked(value: Any, key: str = "") -> Any:
    """Nested plain values without passwords and tokens: those in addresses, and texts under a telling key."""
    if isinstance(value, dict):
        return {name: masked(item, str(name)) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [masked(item, key) for item in value]
    if isinstance(value, str):
        return "***" if value and _SECRET_KEY.search(key) else mask_addresses(value)
    return value


class Masking(logging.Filter):
    """Masks what is logged."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Always lets the record through."""
        record.msg, record.args = mask_addresses(record.getMessage()), ()
        return True
