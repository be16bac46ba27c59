"""From the host's call to the handler's function and back."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable
from dataclasses import dataclass

from .event import Event
from .failure import Reject, Retry
from .output import Output, Outputs

Handler = Callable[[Event], Outputs]


@dataclass
class Failed:
    """What is told of an exception."""

    rejects: bool
    message: str
    code: int | None = None
    detail: str | None = None
    after_ms: int | None = None


def serve(handle: Handler, event: Event) -> list[Output] | Failed:
    """Calls a handler. What is neither ``Retry`` nor ``Reject`` is a fault of the program or of what it relies on: the
    attempt has failed, and the event's history shows the traceback."""
    try:
        return _listed(handle(event))
    except Reject as error:
        return Failed(True, error.message, error.code, error.detail)
    except Retry as error:
        return Failed(False, error.message, error.code, error.detail, error.after_ms)
    except BaseException as error:  # noqa: BLE001: sys.exit() must not end the host's call either
        return Failed(False, _said(error), detail=_stack(error))


def _listed(returned: Outputs) -> list[Output]:
    if returned is None:
        return []
    if isinstance(returned, Output):
        return [returned]
    if inspect.isawaitable(returned):
        close = getattr(returned, "close", None)
        if close is not None:
            close()
        raise TypeError("the handler returned an awaitable; it must not be async, since nothing would wait for it")
    outputs = list(returned)
    for output in outputs:
        if not isinstance(output, Output):
            raise TypeError(f"the handler returned a list with a {type(output).__name__}, which is no Output")
    return outputs


def _said(error: BaseException) -> str:
    return "".join(traceback.format_exception_only(error)).strip()


def _stack(error: BaseException) -> str:
    """The traceback from the handler on: how it was called tells nothing."""
    below = error.__traceback__.tb_next if error.__traceback__ else None
    return "".join(traceback.format_exception(type(error), error, below)).strip()
