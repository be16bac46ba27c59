/* Event handlers for tidemill in C and C++.
 *
 * A handler is one function, tm_handle: from an event to the messages that follow from it. Everything that the
 * functions here return lives until the call is over, and is freed then: a handler frees nothing. What is to be
 * kept longer must be copied with malloc.
 *
 * The structures are those of the contract (wit/handler.wit), as they lie in memory: nothing is converted. */
#ifndef TIDEMILL_H
#define TIDEMILL_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
#define TM_NORETURN [[noreturn]]
#define TM_LITERAL(type) type
extern "C" {
#else
#define TM_NORETURN _Noreturn
#define TM_LITERAL(type) (type)
#endif

/* A run of bytes, without a NUL at its end. Where it is text, it is UTF-8. */
typedef struct tm_str {
  const char *ptr;
  size_t len;
} tm_str;

typedef struct tm_optional_str {
  bool is_some;
  tm_str value;
} tm_optional_str;

typedef struct tm_optional_u64 {
  bool is_some;
  uint64_t value;
} tm_optional_u64;

typedef struct tm_optional_u32 {
  bool is_some;
  uint32_t value;
} tm_optional_u32;

typedef struct tm_optional_s32 {
  bool is_some;
  int32_t value;
} tm_optional_s32;

typedef struct tm_header {
  tm_str name;
  tm_str value;
} tm_header;

typedef struct tm_headers {
  tm_header *ptr;
  size_t len;
} tm_headers;

/* One event. It looks the same however the message was encoded on the wire. */
typedef struct tm_event {
  tm_str id;      /* the same for every attempt and duplicate: the idempotency key for effects elsewhere */
  tm_str subject; /* the subject it was first published on */
  tm_optional_str kind;   /* what kind of event it is (the CloudEvents type) */
  tm_optional_str source; /* where it comes from (the CloudEvents source) */
  tm_optional_u64 time_ms; /* when it happened, in milliseconds since the Unix epoch */
  tm_optional_str content_type; /* the media type of the payload */
  tm_str correlation_id; /* shared by all events that follow from the same first event */
  tm_optional_str causation_id; /* the id of the event whose handling published this one */
  uint32_t attempt;      /* which attempt this is, counted from 1 */
  uint32_t max_attempts; /* after how many failed attempts the event goes to the dead letters */
  tm_headers headers;    /* sorted by name; a name may occur more than once */
  tm_str payload;        /* the event's data, unchanged */
} tm_event;

/* A message to be published. It takes effect only if the handler succeeds. */
typedef struct tm_output {
  tm_str subject;               /* the handler must be granted it (allow.publish) */
  tm_optional_str kind;         /* if set, the message is a CloudEvent of this type */
  tm_optional_str content_type; /* the media type of the payload */
  tm_headers headers;
  tm_str payload;
} tm_output;

typedef struct tm_outputs {
  tm_output *ptr;
  size_t len;
} tm_outputs;

/* What went wrong, for people and for the event's error history. */
typedef struct tm_error {
  tm_optional_s32 code;   /* of the handler's own, such as an HTTP status */
  tm_str message;         /* one sentence */
  tm_optional_str detail; /* more about it, such as a response */
} tm_error;

typedef enum tm_verdict { TM_RETRY = 0, TM_REJECT = 1 } tm_verdict;

typedef struct tm_failure {
  uint8_t verdict; /* a tm_verdict */
  tm_error error;
  tm_optional_u32 delay_ms; /* of TM_RETRY only: the handler's wish for the delay */
} tm_failure;

/* What a handler returns. Made by tm_ok, tm_retry and tm_reject. */
typedef struct tm_result {
  uint8_t is_failure;
  union {
    tm_outputs outputs;
    tm_failure failure;
  } as;
} tm_result;

/* ---- The handler ---- */

/* Handles one event. To be written by the plugin. */
tm_result tm_handle(const tm_event *event);

/* Success, to which tm_publish adds what is to be published. */
tm_result tm_ok(void);

/* Adds a message to what is to be published, and returns it so that more can be said about it: until the next
 * message is added. Nothing may be added to a failure. */
tm_output *tm_publish(tm_result *result, tm_str subject, tm_str payload);
/* The same, with the media type application/json. */
tm_output *tm_publish_json(tm_result *result, tm_str subject, tm_str payload);
void tm_set_kind(tm_output *output, tm_str kind);
void tm_set_content_type(tm_output *output, tm_str content_type);
/* Adds a header; one of the same name stays. */
void tm_add_header(tm_output *output, tm_str name, tm_str value);

/* It may work later: the event is attempted again as the policy says. Arguments as of printf. */
tm_result tm_retry(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* It may work after this time. */
tm_result tm_retry_after(uint32_t delay_ms, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* It can never work: the event goes to the dead letters at once. */
tm_result tm_reject(const char *format, ...) __attribute__((format(printf, 1, 2)));
void tm_set_code(tm_result *failure, int32_t code);
void tm_set_detail(tm_result *failure, tm_str detail);

/* Ends the call as a failed attempt, with this message in the event's history, and the stack of calls. For what
 * cannot be: a mistake in the program. */
TM_NORETURN void tm_panic(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* ---- What a handler may use ---- */

typedef enum tm_level { TM_TRACE, TM_DEBUG, TM_INFO, TM_WARN, TM_ERROR, TM_CRITICAL } tm_level;

/* Emits a log line, which the host marks with handler, event and attempt. Arguments as of printf. */
void tm_log(tm_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The value of a setting of the handler's config or secrets. */
tm_optional_str tm_config(tm_str key);

/* The first header of this name; upper and lower case make no difference. */
tm_optional_str tm_get_header(const tm_event *event, tm_str name);

/* ---- Texts ---- */

/* A text from a literal: the only use of strlen that costs nothing. */
#define TM_STR(literal) (TM_LITERAL(tm_str){"" literal, sizeof(literal) - 1})
/* The arguments for "%.*s". */
#define TM_ARG(text) (int)(text).len, (text).ptr

tm_str tm_str_of(const char *text); /* of a text that ends with a NUL, which is not copied */
bool tm_equal(tm_str one, tm_str other);
bool tm_is(tm_str text, const char *literal);
tm_str tm_format(const char *format, ...) __attribute__((format(printf, 1, 2)));
tm_str tm_vformat(const char *format, va_list arguments);
/* The number of code points in a text. */
size_t tm_count_code_points(tm_str text);
/* Whether all of it is UTF-8. The host refuses texts that are not. */
bool tm_is_utf8(tm_str text);

/* Memory until the end of the call, filled with zeros; never NULL: where there is none, the call ends. */
void *tm_alloc(size_t bytes);

/* ---- JSON ---- */

typedef enum tm_json_type { TM_NULL, TM_BOOL, TM_NUMBER, TM_STRING, TM_ARRAY, TM_OBJECT } tm_json_type;

/* A value that was read. Lists and objects hold their values from `first` on, each followed by `next`. */
typedef struct tm_json {
  tm_json_type type;
  bool truth;                 /* of TM_BOOL */
  tm_str text;                /* of TM_STRING: what it says; of TM_NUMBER: as it was written */
  tm_str key;                 /* in an object */
  size_t count;               /* of TM_ARRAY and TM_OBJECT */
  struct tm_json *first, *next;
} tm_json;

/* Reads a text. Returns NULL and says why and where in `error` (unless that is NULL), if it is no JSON, not UTF-8,
 * or more than 100 levels deep. */
const tm_json *tm_json_read(tm_str text, tm_str *error);
/* Reads an event's payload. Returns NULL and makes `failure` a rejection, if it is no JSON. */
const tm_json *tm_event_json(const tm_event *event, tm_result *failure);

/* The value of a key (the last one, where there are several), or NULL; also where `object` is NULL or none. */
const tm_json *tm_json_get(const tm_json *object, const char *key);
/* These return false, and leave `out` as it is, where there is no such value or it does not fit; NULL is fine. */
bool tm_json_get_text(const tm_json *object, const char *key, tm_str *out);
bool tm_json_get_int(const tm_json *object, const char *key, int64_t *out);
bool tm_json_get_number(const tm_json *object, const char *key, double *out);
bool tm_json_get_bool(const tm_json *object, const char *key, bool *out);
bool tm_json_to_int(const tm_json *value, int64_t *out);
bool tm_json_to_number(const tm_json *value, double *out);

/* A text of JSON that is being written; begin with {0}. Commas and colons are put in by themselves. */
typedef struct tm_writer {
  char *ptr;
  size_t len, room;
  bool needs_comma;
} tm_writer;

void tm_object(tm_writer *writer);
void tm_array(tm_writer *writer);
void tm_end_object(tm_writer *writer);
void tm_end_array(tm_writer *writer);
void tm_key(tm_writer *writer, tm_str key);
void tm_put_text(tm_writer *writer, tm_str text);
void tm_put_int(tm_writer *writer, int64_t number);
/* NaN and the infinities, which JSON has not, are written as null. */
void tm_put_number(tm_writer *writer, double number);
void tm_put_bool(tm_writer *writer, bool truth);
void tm_put_null(tm_writer *writer);
/* What was written so far. */
tm_str tm_written(const tm_writer *writer);

/* ---- For unit tests, which run natively ---- */

/* A first attempt of five at an event with this payload. */
tm_event tm_test_event(const char *subject, const char *payload);
/* Sets what tm_config returns natively; a NULL value removes it. */
void tm_test_set_config(const char *key, const char *value);
/* Frees what calls have allocated so far. */
void tm_end_call(void);

#ifdef __cplusplus
}
#endif
#endif
