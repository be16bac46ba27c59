// Unit tests of the kit, run natively: `make -C sdk/cpp test`.
#undef NDEBUG
#include <cassert>
#include <cstdio>

#include "tidemill.hpp"

using tidemill::Event;
using tidemill::Output;
using tidemill::Result;

static Result answer;

static Result handle(const Event &) { return std::move(answer); }

TIDEMILL_HANDLER(handle)

static tm_result call(Result result) {
  answer = std::move(result);
  tm_event event = tm_test_event("a.b", "{}");
  return tm_handle(&event);
}

static void outputs_outlive_what_they_are_made_of() {
  std::vector<Output> many;
  for (int i = 0; i < 50; i++) many.push_back({"subject " + std::to_string(i), std::string(1000, 'x')});
  many[7].kind = "kind";
  many[7].headers.push_back({"name", "value"});
  tm_result raw = call(std::move(many));
  assert(!raw.is_failure && raw.as.outputs.len == 50);
  tm_output output = raw.as.outputs.ptr[7];
  assert(tidemill::view(output.subject) == "subject 7" && output.payload.len == 1000);
  assert(tidemill::view(output.kind) == "kind" && !tidemill::view(output.content_type));
  assert(tidemill::view(output.headers.ptr[0].value) == "value");
  assert(call({}).as.outputs.len == 0);
  tm_end_call();
}

static void failures() {
  tm_failure failure = call(tidemill::retry("busy", 250)).as.failure;
  assert(failure.verdict == TM_RETRY && failure.delay_ms.value == 250 && !failure.error.code.is_some);
  auto no = tidemill::reject("no good");
  no.code = 422;
  no.detail = "because";
  failure = call(no).as.failure;
  assert(failure.verdict == TM_REJECT && failure.error.code.value == 422 && !failure.delay_ms.is_some);
  assert(tidemill::view(failure.error.message) == "no good" && tidemill::view(failure.error.detail) == "because");
  tm_end_call();
}

static void events() {
  tm_event raw = tm_test_event("a.b", R"({"list": [1, 2.5, true, "x"]})");
  tm_header headers[] = {{TM_STR("Tenant"), TM_STR("acme")}};
  raw.headers = {headers, 1};
  Event event(raw);
  assert(event.subject() == "a.b" && !event.kind() && !event.time_ms() && event.header("tenant") == "acme");
  tidemill::Failure failure;
  auto list = tidemill::json(event, failure)["list"].values();
  assert(list.size() == 4 && list[0].integer() == 1 && !list[1].integer() && list[1].number() == 2.5);
  assert(list[2].truth() == true && list[3].text() == "x" && !list[3]["x"] && !list[3].truth());
  raw.payload = TM_STR("[");
  assert(!tidemill::json(event, failure) && failure.verdict == TM_REJECT);
  assert(failure.message == "the payload is not JSON: it ends too early, at byte 1");
  tm_end_call();
}

static void json_that_is_written() {
  tidemill::JsonWriter json;
  json.object().key("a").array().integer(1).number(0.5).truth(true).null().text("\"").end_array().end_object();
  assert(json.done() == R"({"a":[1,0.5,true,null,"\""]})");
  tm_end_call();
}

int main() {
  outputs_outlive_what_they_are_made_of();
  failures();
  events();
  json_that_is_written();
  std::puts("4 tests passed");
}
