"""Run by ``cargo xtask test``, in a project that has the kit."""

import json
import unittest
from typing import Any

from handler import handle
from tidemill import Output, Reject, Retry
from tidemill.testing import event, set_config


def placed(**changes: Any) -> dict[str, Any]:
    customer = {"id": "c-001", "name": "Zoë", "email": "zoe@example.org"}
    items = [{"sku": "mug", "quantity": 2, "price_cents": 900}, {"sku": "tea", "quantity": 1, "price_cents": 450}]
    return {"order_id": "o-0001", "customer": customer, "items": items, "card": "visa-4242", **changes}


def checked(order: Any) -> Output:
    return handle(event("order.placed", order))


class FraudCheck(unittest.TestCase):
    def setUp(self) -> None:
        set_config({"blocked_domains": "fraud.example, Scam.example", "max_total_cents": "2250"})

    def test_an_order_that_is_as_large_as_it_may_be_is_accepted_with_its_total(self) -> None:
        output = checked(placed())
        self.assertEqual((output.subject, output.kind), ("order.accepted", "order.accepted"))
        self.assertEqual(json.loads(output.payload), {**placed(), "total_cents": 2250})

    def test_a_larger_order_is_refused(self) -> None:
        output = checked(placed(items=[{"sku": "mug", "quantity": 1, "price_cents": 2251}]))
        self.assertEqual(output.subject, "order.refused")
        reason = "the order comes to 2251 cents, which is more than 2250"
        told = {"order_id": "o-0001", "customer": placed()["customer"], "reason": reason}
        self.assertEqual(json.loads(output.payload), told)

    def test_blocked_domains_are_refused_however_they_are_written(self) -> None:
        for email, subject in [
            ("a@fraud.example", "order.refused"),
            ("a@SCAM.example", "order.refused"),
            ("a@not-fraud.example", "order.accepted"),
            ("fraud.example@example.org", "order.accepted"),
        ]:
            customer = {**placed()["customer"], "email": email}
            self.assertEqual(checked(placed(customer=customer)).subject, subject, email)

    def test_without_settings_nobody_is_refused(self) -> None:
        set_config({})
        self.assertEqual(checked(placed()).subject, "order.accepted")

    def test_a_setting_that_is_no_number_can_be_mended(self) -> None:
        set_config({"max_total_cents": "a lot"})
        with self.assertRaisesRegex(Retry, "max_total_cents"):
            checked(placed())

    def test_what_is_no_order_is_rejected(self) -> None:
        def item(**changes: Any) -> dict[str, Any]:
            return {"sku": "mug", "quantity": 1, "price_cents": 900, **changes}

        for order in [
            "no JSON",
            [],
            placed(order_id=""),
            placed(customer=None),
            placed(customer={"id": "c", "name": "Z", "email": "nobody"}),
            placed(items=[]),
            placed(items=[item(quantity=0)]),
            placed(items=[item(quantity=True)]),
            placed(items=[item(price_cents=-1)]),
            placed(items=[item(price_cents=9.5)]),
            placed(items=[item(), {}]),
            placed(items=[item(price_cents=2**53)]),
            placed(card=None),
        ]:
            with self.assertRaises(Reject, msg=order):
                checked(order)


if __name__ == "__main__":
    unittest.main()
