"""What unit tests of a handler need: an event to begin with, and settings."""

from __future__ import annotations

import json
from typing import Any

from . import config
from .event import Event


def event(subject: str, payload: Any, **changes: Any) -> Event:
    """A first attempt of five at an event. A payload that is neither bytes nor text is written as JSON."""
    if isinstance(payload, bytes):
        data = payload
    else:
        data = (payload if isinstance(payload, str) else json.dumps(payload)).encode()
    usual: dict[str, Any] = {"id": "event-1", "correlation_id": "event-1"}
    return Event(subject=subject, payload=data, **{**usual, **changes})


def set_config(settings: dict[str, str]) -> None:
    """Replaces all settings that ``config`` sees."""
    config.connect(settings.get)
