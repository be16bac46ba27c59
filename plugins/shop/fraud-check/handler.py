"""Accepts an order, or refuses one that looks like fraud.

Settings: ``blocked_domains``, a list with commas of domains of email addresses; ``max_total_cents``, the most that an
order may come to. Without them, nobody is blocked and no order is too large.
"""

from typing import Any

from tidemill import Event, Output, Reject, Retry, config, log

LARGEST = 2**53 - 1
"""The largest number that JSON has in every language."""


def handle(event: Event) -> Output:
    order = checked(event.json())
    order["total_cents"] = total_cents(order["items"])
    reason = suspicion(order)
    if reason is None:
        return Output.json("order.accepted", order, kind="order.accepted")
    log.warning("order %s is refused: %s", order["order_id"], reason)
    refused = {"order_id": order["order_id"], "customer": order["customer"], "reason": reason}
    return Output.json("order.refused", refused, kind="order.refused")


def total_cents(items: list[dict[str, Any]]) -> int:
    total = sum(item["quantity"] * item["price_cents"] for item in items)
    if total > LARGEST:
        raise Reject("the order comes to more than can be paid")
    return total


def suspicion(order: dict[str, Any]) -> str | None:
    """Why the order is refused, if it is."""
    domain = order["customer"]["email"].rpartition("@")[2].lower()
    blocked = (config.get("blocked_domains") or "").split(",")
    if domain in (name.strip().lower() for name in blocked):
        return f"the domain {domain} is blocked"
    limit = max_total_cents()
    if limit is not None and order["total_cents"] > limit:
        return f"the order comes to {order['total_cents']} cents, which is more than {limit}"
    return None


def max_total_cents() -> int | None:
    text = config.get("max_total_cents")
    try:
        return None if text is None else int(text)
    except ValueError:  # an operator can mend it before the attempts are used up
        raise Retry(f"the setting max_total_cents is {text!r}, which is no whole number") from None


def checked(order: Any) -> dict[str, Any]:
    """The order, if it has all that is read of it, here and by the handlers that come after."""
    match order:
        case {
            "order_id": str(order_id),
            "customer": {"id": str(), "name": str(), "email": str(email)},
            "items": [_, *_] as items,
            "card": str(),
        } if order_id and "@" in email and all(is_item(item) for item in items):
            return order
    raise Reject("this is no order: it takes an order_id, customer, card, and items with sku, quantity and price_cents")


def is_item(item: Any) -> bool:
    match item:
        case {"sku": str(), "quantity": quantity, "price_cents": price}:
            return type(quantity) is int and quantity >= 1 and type(price) is int and price >= 0
    return False
