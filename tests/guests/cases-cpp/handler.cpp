// The conformance guest: see tests/integration/languages.rs for what it must do.
#include "handler.hpp"

#include <cstdio>
#include <cstdlib>

using tidemill::Event;
using tidemill::Json;
using tidemill::JsonWriter;
using tidemill::Output;
using tidemill::Result;

TIDEMILL_HANDLER(handle)

static Output out(const JsonWriter &payload) { return Output::json("out.case", payload); }

static Result echo(const Event &event) {
  Output output{"out.case", std::string(event.payload())};
  output.kind = "case.echoed";
  output.content_type = "application/json";
  output.headers.push_back({"x-case", "echo"});
  return output;
}

static Result many(Json count) {
  std::vector<Output> outputs;
  for (int64_t index = 0; index < count.integer().value_or(0); index++) {
    JsonWriter json;
    json.object().key("index").integer(index).end_object();
    outputs.push_back(out(json));
  }
  return outputs;
}

static Result describe(const Event &event) {
  JsonWriter json;
  json.object().key("id").text(event.id()).key("subject").text(event.subject());
  json.key("attempt").integer(event.attempt()).key("correlation").text(event.correlation_id());
  json.key("headers").array();
  for (auto [name, value] : event.headers()) json.array().text(name).text(value).end_array();
  json.end_array().key("size").integer(static_cast<int64_t>(event.payload().size())).end_object();
  return out(json);
}

static Result text(std::string_view text) {
  JsonWriter json;
  json.object().key("text").text(text);
  json.key("length").integer(static_cast<int64_t>(tm_count_code_points(tidemill::str(text)))).end_object();
  return out(json);
}

static Result config(std::string_view key) {
  JsonWriter json;
  json.object().key("value");
  auto value = tidemill::config(key);
  if (value) json.text(*value);
  else json.null();
  json.end_object();
  return out(json);
}

static Result log(std::string_view text) {
  tidemill::log(TM_INFO, text);
  std::printf("printed %.*s\n", static_cast<int>(text.size()), text.data());
  return {};
}

static Result retry() {
  auto failure = tidemill::retry("busy", 250);
  failure.code = 503;
  return failure;
}

static Result reject() {
  auto failure = tidemill::reject("no good");
  failure.code = 422;
  failure.detail = "because";
  return failure;
}

__attribute__((noinline)) static Result inner_of_the_case() { tm_panic("asked to panic"); }

static Result loop() {
  for (volatile unsigned turn = 0;; turn = turn + 1) {
  }
}

static Result hog() {
  std::vector<std::string> kept;
  for (;;) kept.emplace_back(64 * 1024, 'x');
}

Result handle(const Event &event) {
  if (event.payload().empty()) {
    JsonWriter json;
    json.object().key("empty").truth(true).end_object();
    return out(json);
  }
  tidemill::Failure failure;
  auto body = tidemill::json(event, failure);
  if (!body) return failure;
  auto verb = body["do"].text();
  if (!verb) return tidemill::reject("the payload is no JSON object with a text \"do\"");
  if (*verb == "echo") return echo(event);
  if (*verb == "many") return many(body["count"]);
  if (*verb == "retry") return retry();
  if (*verb == "reject") return reject();
  if (*verb == "describe") return describe(event);
  if (*verb == "text") return text(body["text"].text().value_or(""));
  if (*verb == "config") return config(body["key"].text().value_or(""));
  if (*verb == "log") return log(body["text"].text().value_or(""));
  if (*verb == "panic") return inner_of_the_case();
  if (*verb == "loop") return loop();
  if (*verb == "hog") return hog();
  return tidemill::reject("unknown: " + std::string(*verb));
}
