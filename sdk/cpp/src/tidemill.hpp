// Event handlers for tidemill in C++17 and later: the kit for C with views, containers and destructors. It throws
// nothing, and is meant for -fno-exceptions.
//
//   tidemill::Result handle(const tidemill::Event &event);
//   TIDEMILL_HANDLER(handle)
#pragma once

#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "tidemill.h"

namespace tidemill {

inline std::string_view view(tm_str text) { return {text.ptr, text.len}; }

inline std::optional<std::string_view> view(tm_optional_str text) {
  return text.is_some ? std::optional(view(text.value)) : std::nullopt;
}

inline tm_str str(std::string_view text) { return {text.data(), text.size()}; }

// A value of JSON that was read, or none. It lives until the end of the call.
class Json {
 public:
  Json() = default;
  explicit Json(const tm_json *value) : value_(value) {}

  explicit operator bool() const { return value_ != nullptr; }
  tm_json_type type() const { return value_ ? value_->type : TM_NULL; }
  // The value of a key, or none; also where this is none, or no object.
  Json operator[](const char *key) const { return Json(tm_json_get(value_, key)); }

  std::optional<std::string_view> text() const {
    return value_ && value_->type == TM_STRING ? std::optional(view(value_->text)) : std::nullopt;
  }
  // A whole number; none where it has a fraction or does not fit.
  std::optional<int64_t> integer() const {
    int64_t number;
    return tm_json_to_int(value_, &number) ? std::optional(number) : std::nullopt;
  }
  std::optional<double> number() const {
    double number;
    return tm_json_to_number(value_, &number) ? std::optional(number) : std::nullopt;
  }
  std::optional<bool> truth() const {
    return value_ && value_->type == TM_BOOL ? std::optional(value_->truth) : std::nullopt;
  }
  // The values of a list or object.
  std::vector<Json> values() const {
    std::vector<Json> all;
    for (const tm_json *at = value_ ? value_->first : nullptr; at; at = at->next) all.emplace_back(at);
    return all;
  }

 private:
  const tm_json *value_ = nullptr;
};

// Writes JSON; commas and colons are put in by themselves.
class JsonWriter {
 public:
  JsonWriter &object() { return tm_object(&writer_), *this; }
  JsonWriter &end_object() { return tm_end_object(&writer_), *this; }
  JsonWriter &array() { return tm_array(&writer_), *this; }
  JsonWriter &end_array() { return tm_end_array(&writer_), *this; }
  JsonWriter &key(std::string_view key) { return tm_key(&writer_, str(key)), *this; }
  JsonWriter &text(std::string_view text) { return tm_put_text(&writer_, str(text)), *this; }
  JsonWriter &integer(int64_t number) { return tm_put_int(&writer_, number), *this; }
  JsonWriter &number(double number) { return tm_put_number(&writer_, number), *this; }
  JsonWriter &truth(bool truth) { return tm_put_bool(&writer_, truth), *this; }
  JsonWriter &null() { return tm_put_null(&writer_), *this; }
  std::string done() const { return std::string(view(tm_written(&writer_))); }

 private:
  tm_writer writer_{};
};

struct Header {
  std::string name, value;
};

// One event. What it shows lives until the end of the call.
class Event {
 public:
  explicit Event(const tm_event &event) : raw(event) {}

  std::string_view id() const { return view(raw.id); }
  std::string_view subject() const { return view(raw.subject); }
  std::optional<std::string_view> kind() const { return view(raw.kind); }
  std::optional<std::string_view> source() const { return view(raw.source); }
  std::optional<uint64_t> time_ms() const {
    return raw.time_ms.is_some ? std::optional(raw.time_ms.value) : std::nullopt;
  }
  std::optional<std::string_view> content_type() const { return view(raw.content_type); }
  std::string_view correlation_id() const { return view(raw.correlation_id); }
  std::optional<std::string_view> causation_id() const { return view(raw.causation_id); }
  uint32_t attempt() const { return raw.attempt; }
  uint32_t max_attempts() const { return raw.max_attempts; }
  std::string_view payload() const { return view(raw.payload); }

  std::vector<std::pair<std::string_view, std::string_view>> headers() const {
    std::vector<std::pair<std::string_view, std::string_view>> all;
    for (size_t i = 0; i < raw.headers.len; i++) {
      all.emplace_back(view(raw.headers.ptr[i].name), view(raw.headers.ptr[i].value));
    }
    return all;
  }
  // The first header of this name, whatever its case.
  std::optional<std::string_view> header(std::string_view name) const { return view(tm_get_header(&raw, str(name))); }

  const tm_event &raw;
};

// A message to be published. It takes effect only if the handler succeeds.
struct Output {
  std::string subject;
  std::string payload;
  std::optional<std::string> kind = {};
  std::optional<std::string> content_type = {};
  std::vector<Header> headers = {};

  static Output json(std::string subject, const JsonWriter &payload) {
    return {std::move(subject), payload.done(), {}, "application/json"};
  }
};

// Why an event could not be handled, and so what becomes of it.
struct Failure {
  tm_verdict verdict;
  std::string message;
  std::optional<int32_t> code = {};
  std::optional<std::string> detail = {};
  std::optional<uint32_t> delay_ms = {};  // of a retry only: the wish for the delay
};

// It may work later: the event is attempted again as the policy says.
inline Failure retry(std::string message, std::optional<uint32_t> delay_ms = {}) {
  return {TM_RETRY, std::move(message), {}, {}, delay_ms};
}

// It can never work: the event goes to the dead letters at once.
inline Failure reject(std::string message) { return {TM_REJECT, std::move(message)}; }

// What a handler returns: outputs, one or none of them, or a failure.
class Result {
 public:
  Result() = default;
  Result(Output output) : outcome(std::vector<Output>()) {
    std::get<std::vector<Output>>(outcome).push_back(std::move(output));
  }
  Result(std::vector<Output> outputs) : outcome(std::move(outputs)) {}
  Result(Failure failure) : outcome(std::move(failure)) {}

  const std::vector<Output> *outputs() const { return std::get_if<std::vector<Output>>(&outcome); }
  const Failure *failure() const { return std::get_if<Failure>(&outcome); }

 private:
  std::variant<std::vector<Output>, Failure> outcome;
};

// Reads an event's payload. Where it is not JSON, there is none, and `failure` is a rejection that says why.
inline Json json(const Event &event, Failure &failure) {
  tm_str error{};
  const tm_json *value = tm_json_read(event.raw.payload, &error);
  if (!value) failure = reject("the payload is not JSON: " + std::string(view(error)));
  return Json(value);
}

// Emits a log line, which the host marks with handler, event and attempt.
inline void log(tm_level level, std::string_view line) { tm_log(level, "%.*s", TM_ARG(str(line))); }

// The value of a setting of the handler's config or secrets.
inline std::optional<std::string_view> config(std::string_view key) { return view(tm_config(str(key))); }

// Copies a result to where it lives until the host has read it.
inline tm_result keep(const Result &result) {
  auto copy = [](std::string_view text) {
    char *to = static_cast<char *>(tm_alloc(text.size()));
    if (!text.empty()) std::memcpy(to, text.data(), text.size());
    return tm_str{to, text.size()};
  };
  if (const Failure *failure = result.failure()) {
    tm_result raw = failure->verdict == TM_REJECT ? tm_reject("%.*s", TM_ARG(str(failure->message)))
                                                  : tm_retry("%.*s", TM_ARG(str(failure->message)));
    if (failure->code) tm_set_code(&raw, *failure->code);
    if (failure->detail) tm_set_detail(&raw, copy(*failure->detail));
    if (failure->delay_ms && failure->verdict == TM_RETRY) raw.as.failure.delay_ms = {true, *failure->delay_ms};
    return raw;
  }
  tm_result raw = tm_ok();
  for (const Output &output : *result.outputs()) {
    tm_output *to = tm_publish(&raw, copy(output.subject), copy(output.payload));
    if (output.kind) tm_set_kind(to, copy(*output.kind));
    if (output.content_type) tm_set_content_type(to, copy(*output.content_type));
    for (const Header &header : output.headers) tm_add_header(to, copy(header.name), copy(header.value));
  }
  return raw;
}

}  // namespace tidemill

// Makes a function the plugin's handler.
#define TIDEMILL_HANDLER(handle)                                   \
  extern "C" tm_result tm_handle(const tm_event *event) {          \
    return tidemill::keep((handle)(tidemill::Event(*event)));      \
  }
