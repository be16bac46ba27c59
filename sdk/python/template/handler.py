"""Works out what an order comes to."""

from typing import Any

from tidemill import Event, Output, Reject, log


def handle(event: Event) -> Output:
    order = event.json()  # no JSON: rejected
    total = total_of(order)
    log.info("order %s comes to %d cents", order.get("order_id"), total)
    totalled = {"order_id": order.get("order_id"), "total_cents": total}
    return Output.json("order.totalled", totalled, kind="order.totalled")


def total_of(order: Any) -> int:
    if not isinstance(order, dict):
        raise Reject("the order is not a JSON object", code=422)
    for name in ("quantity", "unit_price_cents"):
        value = order.get(name)
        if type(value) is not int or value < 1:
            raise Reject(f"{name} must be a whole number of at least 1, not {value!r}", code=422)
    return order["quantity"] * order["unit_price_cents"]
