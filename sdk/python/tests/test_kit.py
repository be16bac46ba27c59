"""Run with ``python -m unittest discover tests`` in the folder above."""

import importlib
import sys
import unittest
from pathlib import Path
from typing import Any

# A project has the kit as its folder `tidemill`; here it is `src`.
sys.path.insert(0, str(Path(__file__).parent.parent))
sys.modules["tidemill"] = importlib.import_module("src")
for part in ("config", "event", "failure", "output", "serve", "testing"):
    sys.modules[f"tidemill.{part}"] = importlib.import_module(f"src.{part}")

from tidemill import Output, Reject, Retry, config  # noqa: E402
from tidemill.serve import Failed, serve  # noqa: E402
from tidemill.testing import event, set_config  # noqa: E402


class Events(unittest.TestCase):
    def test_are_read_as_text_and_json(self) -> None:
        self.assertEqual(event("a", "Grüße").text(), "Grüße")
        self.assertEqual(event("a", {"n": 1}).json(), {"n": 1})

    def test_what_is_no_json_or_no_text_is_rejected(self) -> None:
        for payload, message in [
            ('{"n":', "the payload is not JSON: "),
            ("", "the payload is not JSON: "),
            ("[" * 100_000, "the payload is not JSON: "),
            (b"a\xff", "the payload is not UTF-8 text: "),
        ]:
            with self.assertRaisesRegex(Reject, message):
                event("a", payload).json()

    def test_headers_are_found_whatever_their_case(self) -> None:
        found = event("a", "", headers=[("Tenant", "acme"), ("tenant", "other")])
        self.assertEqual(found.header("TENANT"), "acme")
        self.assertIsNone(found.header("none"))

    def test_the_last_attempt_knows_it(self) -> None:
        self.assertFalse(event("a", "", attempt=2, max_attempts=3).is_last_attempt())
        self.assertTrue(event("a", "", attempt=3, max_attempts=3).is_last_attempt())


class Results(unittest.TestCase):
    def served(self, handle: Any) -> Any:
        return serve(handle, event("a", "{}"))

    def failed(self, handle: Any) -> Failed:
        result = self.served(handle)
        self.assertIsInstance(result, Failed)
        return result

    def test_outputs_hold_json(self) -> None:
        output = Output.json("a.b", {"n": "ä"}, kind="b", headers=[("tenant", "acme")])
        expected = Output("a.b", '{"n":"ä"}'.encode(), "b", "application/json", [("tenant", "acme")])
        self.assertEqual(output, expected)

    def test_every_number_of_outputs_can_be_returned(self) -> None:
        one = Output("a")
        for returned, count in [(None, 0), ([], 0), (one, 1), ([one, one], 2), ((one for _ in range(3)), 3)]:
            self.assertEqual(len(self.served(lambda _, returned=returned: returned)), count)

    def test_what_is_raised_becomes_the_failure(self) -> None:
        def busy(_: Any) -> None:
            raise Retry("busy", after_ms=250, code=503)

        def bad(_: Any) -> None:
            raise Reject("no good", code=422, detail="because")

        self.assertEqual(self.failed(busy), Failed(False, "busy", 503, None, 250))
        self.assertEqual(self.failed(bad), Failed(True, "no good", 422, "because"))

    def test_a_fault_of_the_program_is_a_failed_attempt_with_its_traceback(self) -> None:
        def inner() -> None:
            {}["missing"]

        def outer(_: Any) -> None:
            inner()

        failed = self.failed(outer)
        self.assertEqual((failed.rejects, failed.message), (False, "KeyError: 'missing'"))
        self.assertIn("in inner", failed.detail or "")
        self.assertNotIn("in serve", failed.detail or "")

    def test_leaving_the_program_is_a_failed_attempt(self) -> None:
        self.assertEqual(self.failed(lambda _: sys.exit(3)).message, "SystemExit: 3")

    def test_what_is_no_output_is_a_fault(self) -> None:
        async def later(_: Any) -> None:
            pass

        self.assertIn("must not be async", self.failed(later).message)
        self.assertIn("with a str, which is no Output", self.failed(lambda _: "ab").message)


class Settings(unittest.TestCase):
    def test_are_those_of_the_test(self) -> None:
        set_config({"from": "hello@example.org"})
        self.assertEqual(config.get("from"), "hello@example.org")
        self.assertIsNone(config.get("to"))
        with self.assertRaises(Retry):
            config.require("to")


if __name__ == "__main__":
    unittest.main()
