/* The conformance guest: see tests/integration/languages.rs for what it must do. */
#include <stdio.h>
#include <stdlib.h>

#include "layout.h"
#include "tidemill.h"

#define OUT TM_STR("out.case")

static tm_result publish(const tm_writer *writer) {
  tm_result result = tm_ok();
  tm_publish_json(&result, OUT, tm_written(writer));
  return result;
}

static tm_result echo(const tm_event *event) {
  tm_result result = tm_ok();
  tm_output *output = tm_publish_json(&result, OUT, event->payload);
  tm_set_kind(output, TM_STR("case.echoed"));
  tm_add_header(output, TM_STR("x-case"), TM_STR("echo"));
  return result;
}

static tm_result many(const tm_json *body) {
  int64_t count = 0;
  if (!tm_json_get_int(body, "count", &count)) return tm_reject("count is missing");
  tm_result result = tm_ok();
  for (int64_t i = 0; i < count; i++) {
    tm_writer writer = {0};
    tm_object(&writer);
    tm_key(&writer, TM_STR("index"));
    tm_put_int(&writer, i);
    tm_end_object(&writer);
    tm_publish_json(&result, OUT, tm_written(&writer));
  }
  return result;
}

static tm_result describe(const tm_event *event) {
  tm_writer writer = {0};
  tm_object(&writer);
  tm_key(&writer, TM_STR("id"));
  tm_put_text(&writer, event->id);
  tm_key(&writer, TM_STR("subject"));
  tm_put_text(&writer, event->subject);
  tm_key(&writer, TM_STR("attempt"));
  tm_put_int(&writer, event->attempt);
  tm_key(&writer, TM_STR("correlation"));
  tm_put_text(&writer, event->correlation_id);
  tm_key(&writer, TM_STR("headers"));
  tm_array(&writer);
  for (size_t i = 0; i < event->headers.len; i++) {
    tm_array(&writer);
    tm_put_text(&writer, event->headers.ptr[i].name);
    tm_put_text(&writer, event->headers.ptr[i].value);
    tm_end_array(&writer);
  }
  tm_end_array(&writer);
  tm_key(&writer, TM_STR("size"));
  tm_put_int(&writer, (int64_t)event->payload.len);
  tm_end_object(&writer);
  return publish(&writer);
}

static tm_result text_case(const tm_json *body) {
  tm_str text = {0};
  tm_json_get_text(body, "text", &text);
  tm_writer writer = {0};
  tm_object(&writer);
  tm_key(&writer, TM_STR("text"));
  tm_put_text(&writer, text);
  tm_key(&writer, TM_STR("length"));
  tm_put_int(&writer, (int64_t)tm_count_code_points(text));
  tm_end_object(&writer);
  return publish(&writer);
}

static tm_result config_case(const tm_json *body) {
  tm_str key = {0};
  tm_json_get_text(body, "key", &key);
  tm_optional_str value = tm_config(key);
  tm_writer writer = {0};
  tm_object(&writer);
  tm_key(&writer, TM_STR("value"));
  if (value.is_some) tm_put_text(&writer, value.value);
  else tm_put_null(&writer);
  tm_end_object(&writer);
  return publish(&writer);
}

static tm_result log_case(const tm_json *body) {
  tm_str text = {0};
  tm_json_get_text(body, "text", &text);
  tm_log(TM_INFO, "%.*s", TM_ARG(text));
  printf("printed %.*s\n", TM_ARG(text));
  return tm_ok();
}

static tm_result retry_case(void) {
  tm_result failure = tm_retry_after(250, "busy");
  tm_set_code(&failure, 503);
  return failure;
}

static tm_result reject_case(void) {
  tm_result failure = tm_reject("no good");
  tm_set_code(&failure, 422);
  tm_set_detail(&failure, TM_STR("because"));
  return failure;
}

__attribute__((noinline)) static tm_result inner_of_the_case(void) { tm_panic("asked to panic"); }

static tm_result loop(void) {
  for (volatile unsigned turn = 0;; turn++) {
  }
}

static tm_result hog(void) {
  enum { STEP = 64 * 1024 };
  for (;;) {
    volatile char *kept = malloc(STEP);
    if (!kept) abort();
    for (size_t i = 0; i < STEP; i += 4096) kept[i] = 1;
  }
}

tm_result tm_handle(const tm_event *event) {
  tm_result result = tm_ok();
  if (event->payload.len == 0) {
    tm_publish_json(&result, OUT, TM_STR("{\"empty\":true}"));
    return result;
  }
  const tm_json *body = tm_event_json(event, &result);
  if (!body) return result;
  tm_str verb;
  if (!tm_json_get_text(body, "do", &verb)) return tm_reject("the payload is no JSON object with a text \"do\"");
  if (tm_is(verb, "echo")) return echo(event);
  if (tm_is(verb, "many")) return many(body);
  if (tm_is(verb, "retry")) return retry_case();
  if (tm_is(verb, "reject")) return reject_case();
  if (tm_is(verb, "describe")) return describe(event);
  if (tm_is(verb, "text")) return text_case(body);
  if (tm_is(verb, "config")) return config_case(body);
  if (tm_is(verb, "log")) return log_case(body);
  if (tm_is(verb, "panic")) return inner_of_the_case();
  if (tm_is(verb, "loop")) return loop();
  if (tm_is(verb, "hog")) return hog();
  return tm_reject("unknown: %.*s", TM_ARG(verb));
}
