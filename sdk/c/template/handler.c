/* Works out what an order comes to. */
#include "tidemill.h"

/* Reads a whole number of at least 1; says what is wrong in `failure` where there is none. */
static bool get_positive(const tm_json *order, const char *key, int64_t *out, tm_result *failure) {
  if (tm_json_get_int(order, key, out) && *out >= 1) return true;
  *failure = tm_reject("%s must be a whole number of at least 1", key);
  tm_set_code(failure, 422);
  return false;
}

tm_result tm_handle(const tm_event *event) {
  tm_result result = tm_ok();
  const tm_json *order = tm_event_json(event, &result);
  if (!order) return result; /* no JSON: rejected */

  tm_str order_id;
  int64_t quantity, price, total;
  if (!tm_json_get_text(order, "order_id", &order_id)) return tm_reject("order_id is missing");
  if (!get_positive(order, "quantity", &quantity, &result)) return result;
  if (!get_positive(order, "unit_price_cents", &price, &result)) return result;
  if (__builtin_mul_overflow(quantity, price, &total)) return tm_reject("the total is too large");
  tm_log(TM_INFO, "order %.*s comes to %lld cents", TM_ARG(order_id), (long long)total);

  tm_writer totalled = {0};
  tm_object(&totalled);
  tm_key(&totalled, TM_STR("order_id"));
  tm_put_text(&totalled, order_id);
  tm_key(&totalled, TM_STR("total_cents"));
  tm_put_int(&totalled, total);
  tm_end_object(&totalled);
  tm_output *output = tm_publish_json(&result, TM_STR("order.totalled"), tm_written(&totalled));
  tm_set_kind(output, TM_STR("order.totalled"));
  return result;
}
