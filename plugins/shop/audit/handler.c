/* Records that something was said: who said what about which order, and how much of it, but not what. */
#include "tidemill.h"

static void put(tm_writer *record, tm_str key, tm_str value) {
  tm_key(record, key);
  tm_put_text(record, value);
}

tm_result tm_handle(const tm_event *event) {
  tm_result result = tm_ok();
  const tm_json *fact = tm_event_json(event, &result);
  if (!fact) return result; /* not JSON: rejected */
  tm_str order_id;
  if (!tm_json_get_text(fact, "order_id", &order_id)) {
    return tm_reject("%.*s without an order_id", TM_ARG(event->subject));
  }

  tm_writer record = {0};
  tm_object(&record);
  put(&record, TM_STR("subject"), event->subject);
  put(&record, TM_STR("event_id"), event->id);
  put(&record, TM_STR("correlation_id"), event->correlation_id);
  put(&record, TM_STR("order_id"), order_id);
  tm_key(&record, TM_STR("bytes"));
  tm_put_int(&record, (int64_t)event->payload.len);
  tm_end_object(&record);
  tm_output *output = tm_publish_json(&result, TM_STR("audit.recorded"), tm_written(&record));
  tm_set_kind(output, TM_STR("audit.recorded"));
  return result;
}
