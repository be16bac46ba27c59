"""Run with ``python -m unittest``."""

import json
import unittest

from handler import handle
from tidemill import Reject
from tidemill.testing import event


class Totals(unittest.TestCase):
    def test_an_order_comes_to_its_quantity_times_the_price(self) -> None:
        output = handle(event("order.placed", {"order_id": "o-1", "quantity": 3, "unit_price_cents": 450}))
        self.assertEqual(output.subject, "order.totalled")
        self.assertEqual(json.loads(output.payload), {"order_id": "o-1", "total_cents": 1350})

    def test_an_order_without_a_quantity_is_rejected(self) -> None:
        with self.assertRaises(Reject):
            handle(event("order.placed", {"order_id": "o-2", "unit_price_cents": 450}))


if __name__ == "__main__":
    unittest.main()
