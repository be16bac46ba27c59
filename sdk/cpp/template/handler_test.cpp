// Unit tests, run natively by `make test`.
#undef NDEBUG
#include <cassert>
#include <cstdio>

#include "handler.hpp"

static tidemill::Result handle_payload(const char *payload) {
  tm_event raw = tm_test_event("order.placed", payload);
  return handle(tidemill::Event(raw));
}

static void an_order_is_accepted() {
  auto result = handle_payload(R"({"order_id": "o-1", "total_cents": 1250})");
  assert(result.outputs() && result.outputs()->size() == 1);
  auto &output = result.outputs()->front();
  assert(output.subject == "order.accepted");
  assert(output.payload == R"({"order_id":"o-1","total_cents":1250})");
  tm_end_call();
}

static void an_order_without_a_total_is_rejected() {
  auto result = handle_payload(R"({"order_id": "o-1"})");
  assert(result.failure() && result.failure()->verdict == TM_REJECT);
  assert(result.failure()->message == "total_cents is missing");
  tm_end_call();
}

int main() {
  an_order_is_accepted();
  an_order_without_a_total_is_rejected();
  std::puts("2 tests passed");
}
