"""What becomes the component: connects the module ``handler`` with the host.

The modules ``wit_world`` and ``componentize_py_types`` are made by componentize-py.
"""

from __future__ import annotations

import logging
import os
import random

import handler
from componentize_py_types import Err
from wit_world import exports
from wit_world.imports import logging as host_log
from wit_world.imports import store, types

from . import config
from .event import Event
from .failure import Retry
from .serve import Failed, serve

_LEVELS = [
    (logging.CRITICAL, host_log.Level.CRITICAL),
    (logging.ERROR, host_log.Level.ERROR),
    (logging.WARNING, host_log.Level.WARN),
    (logging.INFO, host_log.Level.INFO),
    (logging.DEBUG, host_log.Level.DEBUG),
]


class _ToHost(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        level = next((level for least, level in _LEVELS if record.levelno >= least), host_log.Level.TRACE)
        host_log.log(level, record.name, self.format(record))


def _read_setting(key: str) -> str | None:
    try:
        return store.get(key)
    except Err as error:
        raise Retry(f"the setting {key!r} cannot be read: {error.value.value}") from None


logging.basicConfig(level=logging.NOTSET, handlers=[_ToHost()], format="%(message)s", force=True)
config.connect(_read_setting)


class Handler(exports.Handler):
    """The handler interface."""

    def handle(self, event: types.Event) -> list[types.Output]:
        """Handles one event."""
        # Else every instance would give the same numbers, from a seed that was drawn at build time.
        random.seed(os.urandom(16))
        result = serve(handler.handle, Event(**vars(event)))
        if isinstance(result, Failed):
            told = types.Error(result.code, result.message, result.detail)
            failure = types.Failure_Reject(told) if result.rejects else types.Failure_Retry((told, result.after_ms))
            raise Err(failure)
        return [types.Output(o.subject, o.kind, o.content_type, o.headers, o.payload) for o in result]
