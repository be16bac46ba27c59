"""The event that a handler is given."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from .failure import Reject


@dataclass
class Event:
    """One event. It looks the same however the message was encoded on the wire."""

    id: str
    """Identifies the event; the same for every attempt and every duplicate of it. Use it as the idempotency key for
    effects outside of the event stream."""
    subject: str
    """The subject the event was first published on."""
    payload: bytes
    """The event's data, unchanged."""
    kind: str | None = None
    """What kind of event it is (the CloudEvents ``type``), where the message says so."""
    source: str | None = None
    """Where the event comes from (the CloudEvents ``source``), where the message says so."""
    time_ms: int | None = None
    """When it happened, in milliseconds since the Unix epoch."""
    content_type: str | None = None
    """The media type of ``payload``, where the message says so."""
    correlation_id: str = ""
    """Shared by all events that follow from the same first event."""
    causation_id: str | None = None
    """The id of the event whose handling published this one, if any."""
    attempt: int = 1
    """Which attempt this is, counted from 1."""
    max_attempts: int = 5
    """After how many failed attempts the event goes to the dead letters."""
    headers: list[tuple[str, str]] = field(default_factory=list)
    """The message's headers, sorted by name; a name may occur more than once."""

    def text(self) -> str:
        """Reads the payload as UTF-8 text; raises ``Reject`` if it is none: it never will be."""
        try:
            return self.payload.decode()
        except UnicodeDecodeError as error:
            raise Reject(f"the payload is not UTF-8 text: {error}") from None

    def json(self) -> Any:
        """Reads the payload as JSON; raises ``Reject`` if it is none: it never will be."""
        text = self.text()
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise Reject(f"the payload is not JSON: {error}") from None

    def header(self, name: str) -> str | None:
        """The first header of this name; upper and lower case make no difference."""
        wanted = name.lower()
        return next((value for found, value in self.headers if found.lower() == wanted), None)

    def is_last_attempt(self) -> bool:
        """Whether the event goes to the dead letters if this attempt fails."""
        return self.attempt >= self.max_attempts
