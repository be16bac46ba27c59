// Unit tests, run natively by `make test`.
#undef NDEBUG
#include <cassert>
#include <cstdio>

#include "handler.hpp"

static tidemill::Result handle_payload(const char *payload) {
  tm_event raw = tm_test_event("order.placed", payload);
  return handle(tidemill::Event(raw));
}

static void an_order_comes_to_its_quantity_times_the_price() {
  auto result = handle_payload(R"({"order_id": "o-1", "quantity": 3, "unit_price_cents": 450})");
  assert(result.outputs() && result.outputs()->size() == 1);
  auto &output = result.outputs()->front();
  assert(output.subject == "order.totalled");
  assert(output.payload == R"({"order_id":"o-1","total_cents":1350})");
  tm_end_call();
}

static void an_order_without_a_quantity_is_rejected() {
  auto result = handle_payload(R"({"order_id": "o-2", "unit_price_cents": 450})");
  assert(result.failure() && result.failure()->verdict == TM_REJECT);
  assert(result.failure()->message == "quantity must be a whole number of at least 1");
  tm_end_call();
}

int main() {
  an_order_comes_to_its_quantity_times_the_price();
  an_order_without_a_quantity_is_rejected();
  std::puts("2 tests passed");
}
