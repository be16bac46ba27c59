"""The messages that a handler wants published."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Union


@dataclass
class Output:
    """A message to be published. It takes effect only if the handler returns it."""

    subject: str
    """Where to publish; the handler must be granted the subject (``allow.publish``)."""
    payload: bytes = b""
    """The message's data."""
    kind: str | None = None
    """What kind of event it is. If set, the message is published as a CloudEvent."""
    content_type: str | None = None
    """The media type of the payload."""
    headers: list[tuple[str, str]] = field(default_factory=list)
    """Additional headers. Those of the broker and the host (``Nats-…``, ``Tidemill-…``) are dropped."""

    @classmethod
    def json(
        cls, subject: str, value: Any, *, kind: str | None = None, headers: Iterable[tuple[str, str]] = ()
    ) -> Output:
        """A message with a JSON payload."""
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        return cls(subject, text.encode(), kind, "application/json", list(headers))


Outputs = Union[None, Output, Iterable[Output]]
"""What a handler may return when it succeeds."""
