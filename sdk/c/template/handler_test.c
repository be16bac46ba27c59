/* Unit tests, run natively by `make test`. */
#undef NDEBUG
#include <assert.h>
#include <stdio.h>

#include "tidemill.h"

static void an_order_comes_to_its_quantity_times_the_price(void) {
  tm_event event = tm_test_event("order.placed", "{\"order_id\": \"o-1\", \"quantity\": 3, \"unit_price_cents\": 450}");
  tm_result result = tm_handle(&event);
  assert(!result.is_failure && result.as.outputs.len == 1);
  tm_output *output = &result.as.outputs.ptr[0];
  assert(tm_is(output->subject, "order.totalled"));
  assert(tm_is(output->payload, "{\"order_id\":\"o-1\",\"total_cents\":1350}"));
  tm_end_call();
}

static void an_order_without_a_quantity_is_rejected(void) {
  tm_event event = tm_test_event("order.placed", "{\"order_id\": \"o-2\", \"unit_price_cents\": 450}");
  tm_result result = tm_handle(&event);
  assert(result.is_failure && result.as.failure.verdict == TM_REJECT);
  assert(tm_is(result.as.failure.error.message, "quantity must be a whole number of at least 1"));
  tm_end_call();
}

int main(void) {
  an_order_comes_to_its_quantity_times_the_price();
  an_order_without_a_quantity_is_rejected();
  puts("2 tests passed");
  return 0;
}
