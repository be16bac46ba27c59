"""Write tidemill event handlers in Python: what handlers import.

Everything here runs in any Python from 3.10 on as well, for unit tests.
"""

import logging

from . import config
from .event import Event
from .failure import Reject, Retry
from .output import Output, Outputs

log = logging.getLogger("handler")
"""Log lines, which the host marks with handler, event and attempt. Loggers of your own do as well."""

__all__ = ["Event", "Output", "Outputs", "Reject", "Retry", "config", "log"]
