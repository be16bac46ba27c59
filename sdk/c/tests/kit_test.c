/* Unit tests of the kit, run natively: `make -C sdk/c test`. */
#undef NDEBUG
#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "tidemill.h"

/* The kit wants a handler; none is called here. */
tm_result tm_handle(const tm_event *event) {
  (void)event;
  return tm_ok();
}

static void json_that_is_read(void) {
  tm_str error;
  const tm_json *all = tm_json_read(
      TM_STR(" {\"text\": \"a\\u00e9\\ud83e\\udd80\\n\\/\", \"int\": -9223372036854775808, \"number\": 1.5e3,"
             " \"list\": [1, [], {}, null, true], \"text\": \"last\"} "),
      &error);
  assert(all && all->type == TM_OBJECT && all->count == 5);
  tm_str text;
  int64_t number;
  double real;
  bool truth = true;
  assert(tm_is(all->first->text, "a\xc3\xa9\xf0\x9f\xa6\x80\n/"));
  assert(tm_json_get_text(all, "text", &text) && tm_is(text, "last"));
  assert(tm_json_get_int(all, "int", &number) && number == INT64_MIN);
  assert(!tm_json_get_int(all, "number", &number) && number == INT64_MIN);
  assert(tm_json_get_number(all, "number", &real) && real == 1500);
  const tm_json *list = tm_json_get(all, "list");
  assert(list->type == TM_ARRAY && list->count == 5 && list->first->next->type == TM_ARRAY);
  assert(!tm_json_get(all, "none") && !tm_json_get(NULL, "x") && !tm_json_get(list, "x"));
  assert(!tm_json_get_text(NULL, "x", &text) && !tm_json_get_bool(all, "text", &truth) && truth);
  tm_end_call();
}

static void whole_numbers_that_do_not_fit(void) {
  const char *const texts[] = {"9223372036854775808", "-9223372036854775809", "1.0", "1e2", "99999999999999999999999"};
  for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
    int64_t number;
    assert(!tm_json_to_int(tm_json_read(tm_str_of(texts[i]), NULL), &number));
  }
  int64_t most;
  assert(tm_json_to_int(tm_json_read(TM_STR("9223372036854775807"), NULL), &most) && most == INT64_MAX);
  tm_end_call();
}

static void json_that_is_refused(void) {
  static const struct {
    const char *text, *error;
  } cases[] = {
      {"", "it ends too early, at byte 0"},
      {"{\"a\":1", "a comma or } is missing, at byte 6"},
      {"{\"a\" 1}", "a colon is missing, at byte 5"},
      {"{1:2}", "a key is missing, at byte 1"},
      {"[1,]", "there is no value, at byte 3"},
      {"[1 2]", "a comma or ] is missing, at byte 3"},
      {"1 2", "there is more after its end, at byte 2"},
      {"01", "there is more after its end, at byte 1"},
      {"-", "there is no value, at byte 1"},
      {"1.", "a number ends with its point, at byte 2"},
      {"1e", "a number has no exponent, at byte 2"},
      {"nul", "there is no value, at byte 0"},
      {"\"a", "a string does not end, at byte 2"},
      {"\"a\\", "a string does not end, at byte 3"},
      {"\"\\x\"", "there is no such escape, at byte 3"},
      {"\"\\u12\"", "an escape is cut off, at byte 3"},
      {"\"\\u12g4\"", "an escape has no four hexadecimal digits, at byte 6"},
      {"\"\\ud800\"", "an escape is half a surrogate pair, at byte 7"},
      {"\"\\udc00\"", "an escape is half a surrogate pair, at byte 7"},
      {"\"a\nb\"", "a string holds a control character, at byte 2"},
      {"\"\xff\"", "it is not UTF-8, at byte 0"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    tm_str error = {0};
    assert(!tm_json_read(tm_str_of(cases[i].text), &error));
    if (!tm_is(error, cases[i].error)) printf("%s: %.*s\n", cases[i].text, TM_ARG(error));
    assert(tm_is(error, cases[i].error));
    tm_end_call();
  }
}

static void depth_is_bounded(void) {
  char deep[400];
  memset(deep, '[', 200);
  memset(deep + 200, ']', 200);
  assert(tm_json_read((tm_str){deep + 100, 200}, NULL));
  assert(!tm_json_read((tm_str){deep, 400}, NULL));
  tm_end_call();
}

/* Every beginning of a text is refused or read, without a step beyond its end. */
static void cut_json_is_never_read_beyond_its_end(void) {
  const char *whole = "{\"a\\u00e9\\ud83e\\udd80\": [1.5e-3, true, false, null, \"\\\\\"], \"b\": {}}";
  for (size_t len = 0; len < strlen(whole); len++) {
    char copy[100];
    memset(copy, '"', sizeof copy);
    memcpy(copy, whole, len);
    assert(!tm_json_read((tm_str){copy, len}, NULL));
    tm_end_call();
  }
}

static void json_that_is_written(void) {
  tm_writer w = {0};
  tm_object(&w);
  tm_key(&w, TM_STR("a\"b\\\n\x01"));
  tm_array(&w);
  tm_put_int(&w, INT64_MIN);
  tm_put_number(&w, 0.1);
  tm_put_number(&w, NAN);
  tm_put_bool(&w, false);
  tm_object(&w);
  tm_end_object(&w);
  tm_put_null(&w);
  tm_end_array(&w);
  tm_key(&w, TM_STR("b"));
  tm_put_text(&w, TM_STR("\xc3\xa9"));
  tm_end_object(&w);
  assert(tm_is(tm_written(&w), "{\"a\\\"b\\\\\\u000a\\u0001\":[-9223372036854775808,0.1,null,false,{},null],"
                               "\"b\":\"\xc3\xa9\"}"));
  assert(tm_json_read(tm_written(&w), NULL));
  tm_end_call();
}

static void long_texts_keep_their_bytes(void) {
  tm_writer w = {0};
  tm_array(&w);
  for (int i = 0; i < 20000; i++) tm_put_int(&w, i);
  tm_end_array(&w);
  const tm_json *list = tm_json_read(tm_written(&w), NULL);
  assert(list && list->count == 20000);
  int64_t expected = 0, number;
  for (const tm_json *value = list->first; value; value = value->next) {
    assert(tm_json_to_int(value, &number) && number == expected++);
  }
  tm_end_call();
}

static void results(void) {
  tm_result ok = tm_ok();
  assert(!ok.is_failure && ok.as.outputs.len == 0);
  for (int i = 0; i < 100; i++) {
    tm_output *output = tm_publish_json(&ok, TM_STR("a"), tm_format("%d", i));
    tm_add_header(output, TM_STR("one"), TM_STR("1"));
    tm_add_header(output, TM_STR("two"), TM_STR("2"));
  }
  assert(ok.as.outputs.len == 100);
  assert(tm_is(ok.as.outputs.ptr[77].payload, "77"));
  assert(ok.as.outputs.ptr[0].headers.len == 2 && tm_is(ok.as.outputs.ptr[0].headers.ptr[1].value, "2"));
  assert(tm_is(ok.as.outputs.ptr[99].content_type.value, "application/json"));

  tm_result retry = tm_retry_after(250, "busy: %s", "x");
  tm_set_code(&retry, 503);
  tm_failure failure = retry.as.failure;
  assert(retry.is_failure && failure.verdict == TM_RETRY && failure.delay_ms.value == 250);
  assert(tm_is(failure.error.message, "busy: x") && failure.error.code.value == 503 && !failure.error.detail.is_some);
  assert(!tm_retry("x").as.failure.delay_ms.is_some);
  tm_result reject = tm_reject("bad \xff byte");
  assert(reject.as.failure.verdict == TM_REJECT && tm_is(reject.as.failure.error.message, "bad ? byte"));
  tm_end_call();
}

static void events(void) {
  tm_event event = tm_test_event("a.b", "{");
  tm_header headers[] = {{TM_STR("Tenant"), TM_STR("acme")}};
  event.headers = (tm_headers){headers, 1};
  assert(tm_is(tm_get_header(&event, TM_STR("TENANT")).value, "acme"));
  assert(!tm_get_header(&event, TM_STR("none")).is_some);
  tm_result failure;
  assert(!tm_event_json(&event, &failure) && failure.as.failure.verdict == TM_REJECT);
  assert(tm_is(failure.as.failure.error.message, "the payload is not JSON: a key is missing, at byte 1"));
  tm_end_call();
}

static void settings(void) {
  tm_test_set_config("from", "a");
  tm_test_set_config("from", "b");
  assert(tm_is(tm_config(TM_STR("from")).value, "b"));
  tm_test_set_config("from", NULL);
  assert(!tm_config(TM_STR("from")).is_some);
}

static void texts(void) {
  assert(tm_count_code_points(TM_STR("Zo\xc3\xab \xf0\x9f\xa6\x80")) == 5);
  assert(tm_is_utf8(TM_STR("\xf4\x8f\xbf\xbf")) && tm_is_utf8(TM_STR("")));
  const char *const wrong[] = {"\xc0\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xe2\x82", "\x80", "\xf5\x80\x80\x80"};
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) assert(!tm_is_utf8(tm_str_of(wrong[i])));
}

int main(void) {
  json_that_is_read();
  whole_numbers_that_do_not_fit();
  json_that_is_refused();
  depth_is_bounded();
  cut_json_is_never_read_beyond_its_end();
  json_that_is_written();
  long_texts_keep_their_bytes();
  results();
  events();
  settings();
  texts();
  puts("11 tests passed");
  return 0;
}
