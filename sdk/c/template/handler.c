/* Accepts an order if it has a total, and says so. */
#include "tidemill.h"

tm_result tm_handle(const tm_event *event) {
  tm_result result = tm_ok();
  const tm_json *order = tm_event_json(event, &result);
  if (!order) return result; /* not JSON: rejected */

  tm_str order_id;
  int64_t total_cents;
  if (!tm_json_get_text(order, "order_id", &order_id)) return tm_reject("order_id is missing");
  if (!tm_json_get_int(order, "total_cents", &total_cents)) return tm_reject("total_cents is missing");
  if (total_cents < 0) return tm_reject("total_cents is %lld; it cannot be negative", (long long)total_cents);
  tm_log(TM_INFO, "order %.*s of %lld cents", TM_ARG(order_id), (long long)total_cents);

  tm_writer accepted = {0};
  tm_object(&accepted);
  tm_key(&accepted, TM_STR("order_id"));
  tm_put_text(&accepted, order_id);
  tm_key(&accepted, TM_STR("total_cents"));
  tm_put_int(&accepted, total_cents);
  tm_end_object(&accepted);
  tm_output *output = tm_publish_json(&result, TM_STR("order.accepted"), tm_written(&accepted));
  tm_set_kind(output, TM_STR("order.accepted"));
  return result;
}
