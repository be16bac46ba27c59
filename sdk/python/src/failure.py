"""What handlers raise. Any other exception is a fault of the program, and a failed attempt as well."""

from __future__ import annotations


class Retry(Exception):
    """It may work later: the event is attempted again as the retry policy says."""

    def __init__(
        self, message: str, *, after_ms: int | None = None, code: int | None = None, detail: str | None = None
    ) -> None:
        """``after_ms`` is a wish for the delay; ``code`` is one of the handler's own, such as an HTTP status."""
        super().__init__(message)
        self.message = message
        self.after_ms = after_ms
        self.code = code
        self.detail = detail


class Reject(Exception):
    """It can never work: the event goes to the dead letters at once."""

    def __init__(self, message: str, *, code: int | None = None, detail: str | None = None) -> None:
        """``code`` is one of the handler's own, such as an HTTP status."""
        super().__init__(message)
        self.message = message
        self.code = code
        self.detail = detail
