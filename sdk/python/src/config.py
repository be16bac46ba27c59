"""The ``config`` and ``secrets`` of the handler's entry in the manifest.

Without a host, as in unit tests, the settings are those that a test has set (``tidemill.testing.set_config``).
"""

from __future__ import annotations

from collections.abc import Callable

from .failure import Retry


def _none(_key: str) -> str | None:
    return None


_read: Callable[[str], str | None] = _none


def connect(read: Callable[[str], str | None]) -> None:
    """Takes what reads settings. Handlers have no use for it."""
    global _read
    _read = read


def get(key: str) -> str | None:
    """The value of a setting, or ``None`` where there is no such setting."""
    return _read(key)


def require(key: str) -> str:
    """The value of a setting that the handler cannot do without.

    Raises ``Retry`` if it is missing: an operator can add it before the attempts are used up.
    """
    value = get(key)
    if value is None:
        raise Retry(f"the setting {key!r} is missing; add it to the handler's config or secrets")
    return value
