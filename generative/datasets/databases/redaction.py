"""Keeping a key out of everything that is kept or shown: replies, headers, messages."""

from __future__ import annotations

import json
import re
from urllib.parse import quote, quote_plus

from pydantic import SecretStr

MASK = "***"


class Redactor:
    """Replaces one secret, in the spellings in which a server may send it back, by '***'."""

    def __init__(self, secret: SecretStr | None) -> None:
        value = secret.get_secret_value() if secret else ""
        spellings = {value, quote(value), quote(value, safe=""), quote_plus(value), json.dumps(value)[1:-1]}
        # Longest first: an encoded spelling may contain the plain one. Case does not matter in '%2f'.
        patterns = [re.escape(text) for text in sorted(spellings, key=len, reverse=True)] if value else []
        self._text = re.compile("|".join(patterns), re.IGNORECASE) if patterns else None
        self._bytes = re.compile("|".join(patterns).encode(), re.IGNORECASE) if patterns else None

    def __repr__(self) -> str:
        return f"Redactor({'one secret' if self._text else 'no secret'})"

    def text(self, text: str) -> str:
        """The text without the secret."""
        return self._text.sub(MASK, text) if self._text else text

    def data(self, data: bytes) -> bytes:
        """The bytes without the secret; what is not the secret stays as it is, valid text or not."""
        return self._bytes.sub(MASK.encode(), data) if self._bytes else data


def is_sendable(secret: SecretStr) -> bool:
    """Whether the secret can stand in a header; the libraries' own complaint about one that cannot would show it."""
    value = secret.get_secret_value()
    return value.isascii() and value.isprintable() and " " not in value
