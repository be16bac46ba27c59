/* Run by `cargo xtask test`, in a project that has the kit. */
#undef NDEBUG
#include <assert.h>
#include <stdio.h>

#include "tidemill.h"

static void what_is_said_is_recorded_and_how_much_but_not_what(void) {
  tm_event event = tm_test_event("payment.captured", "{\"order_id\": \"o-1\", \"cents\": 1800}");
  event.id = TM_STR("e-2");
  event.correlation_id = TM_STR("e-1");
  tm_result result = tm_handle(&event);
  assert(!result.is_failure && result.as.outputs.len == 1);
  tm_output *output = &result.as.outputs.ptr[0];
  assert(tm_is(output->subject, "audit.recorded"));
  assert(output->kind.is_some && tm_is(output->kind.value, "audit.recorded"));
  assert(output->content_type.is_some && tm_is(output->content_type.value, "application/json"));
  assert(tm_is(output->payload, "{\"subject\":\"payment.captured\",\"event_id\":\"e-2\",\"correlation_id\":\"e-1\","
                                "\"order_id\":\"o-1\",\"bytes\":34}"));
  tm_end_call();
}

static void what_names_no_order_is_rejected(void) {
  const char *payloads[] = {"", "[]", "{}", "{\"order_id\": 7}"};
  for (size_t i = 0; i < sizeof payloads / sizeof payloads[0]; i++) {
    tm_event event = tm_test_event("order.placed", payloads[i]);
    tm_result result = tm_handle(&event);
    assert(result.is_failure && result.as.failure.verdict == TM_REJECT);
    tm_end_call();
  }
}

int main(void) {
  what_is_said_is_recorded_and_how_much_but_not_what();
  what_names_no_order_is_rejected();
  puts("2 tests passed");
  return 0;
}
