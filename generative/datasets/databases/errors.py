"""What may go wrong between here and a database: one class per cause, each a `SourceError` with one sentence.

No message holds a key: `Access.redacted` has seen every text that came from outside.
"""

from __future__ import annotations

from generative.datasets.sources import SourceError


class NetworkError(SourceError):
    """A database that could not be asked. What has come so far is kept; the same command goes on from there."""


class AccessDeniedError(NetworkError):
    """401 or 403: no key, a wrong one, or one without the right."""


class NotFoundError(NetworkError):
    """404: the address is not, or no longer, that of the database."""


class RefusedQueryError(NetworkError):
    """400, 413, 414 or 422: the database does not understand, or does not want, this query."""


class BusyError(NetworkError):
    """429 until the attempts were used up, or a Retry-After beyond what is waited for."""


class ServerFaultError(NetworkError):
    """500, 502, 503, 504 until the attempts were used up."""


class UnreachableError(NetworkError):
    """No connection, or no answer in time, until the attempts were used up."""


class BrokenReplyError(NetworkError):
    """A reply that is no complete JSON (cut off, another type, broken compression) until the attempts were used up."""


class EndlessReplyError(NetworkError):
    """A reply beyond the allowed size or time."""


class SchemaChangedError(NetworkError):
    """A complete reply without the fields this database used to send."""
