#include "tidemill.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* ---- Memory: a region that is emptied at the end of each call ---- */

enum { CHUNK_BYTES = 16 * 1024, ALIGNMENT = 16 };

/* Chunks in the order in which they were filled, the latest first. The first one is kept from call to call. */
typedef struct chunk {
  struct chunk *before;
  size_t used, room;
  _Alignas(ALIGNMENT) char bytes[];
} chunk;

static chunk *region;

static void *take(size_t bytes) {
  if (bytes > SIZE_MAX - 2 * ALIGNMENT - sizeof(chunk)) abort();
  bytes = (bytes + ALIGNMENT - 1) & ~(size_t)(ALIGNMENT - 1);
  if (!region || region->room - region->used < bytes) {
    size_t room = bytes > CHUNK_BYTES ? bytes : CHUNK_BYTES;
    chunk *fresh = malloc(sizeof *fresh + room);
    if (!fresh) abort();
    *fresh = (chunk){.before = region, .room = room};
    region = fresh;
  }
  void *taken = region->bytes + region->used;
  region->used += bytes;
  return taken;
}

void *tm_alloc(size_t bytes) { return memset(take(bytes), 0, bytes); }

/* Makes room for more, in place where it is the latest that was taken. */
static void *extend(void *old, size_t old_bytes, size_t bytes) {
  size_t rounded = (old_bytes + ALIGNMENT - 1) & ~(size_t)(ALIGNMENT - 1);
  if (old && bytes <= rounded) return old;
  if (old && (char *)old + rounded == region->bytes + region->used && bytes - rounded <= region->room - region->used) {
    take(bytes - rounded);
    return old;
  }
  void *fresh = take(bytes);
  if (old_bytes) memcpy(fresh, old, old_bytes);
  return fresh;
}

void tm_end_call(void) {
  while (region && region->before) {
    chunk *before = region->before;
    free(region);
    region = before;
  }
  if (region && region->room > CHUNK_BYTES) {
    free(region);
    region = NULL;
  }
  if (region) region->used = 0;
}

/* ---- Texts ---- */

tm_str tm_str_of(const char *text) { return (tm_str){text, text ? strlen(text) : 0}; }

bool tm_equal(tm_str one, tm_str other) {
  return one.len == other.len && (one.len == 0 || memcmp(one.ptr, other.ptr, one.len) == 0);
}

bool tm_is(tm_str text, const char *literal) { return tm_equal(text, tm_str_of(literal)); }

tm_str tm_vformat(const char *format, va_list arguments) {
  va_list again;
  va_copy(again, arguments);
  int length = vsnprintf(NULL, 0, format, arguments);
  size_t room = length < 0 ? 1 : (size_t)length + 1;
  char *text = tm_alloc(room);
  vsnprintf(text, room, format, again);
  va_end(again);
  return (tm_str){text, room - 1};
}

tm_str tm_format(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  tm_str text = tm_vformat(format, arguments);
  va_end(arguments);
  return text;
}

/* The length of the code point at the beginning, or 0 where there is none. */
static size_t code_point(const unsigned char *at, size_t left) {
  static const unsigned least[] = {0, 0, 0x80, 0x800, 0x10000};
  if (at[0] < 0x80) return 1;
  size_t length = at[0] >= 0xf0 ? 4 : at[0] >= 0xe0 ? 3 : 2;
  if (at[0] < 0xc2 || at[0] > 0xf4 || length > left) return 0;
  unsigned value = at[0] & (0x7fu >> length);
  for (size_t i = 1; i < length; i++) {
    if ((at[i] & 0xc0) != 0x80) return 0;
    value = value << 6 | (at[i] & 0x3f);
  }
  return value < least[length] || value > 0x10ffff || (value >= 0xd800 && value < 0xe000) ? 0 : length;
}

bool tm_is_utf8(tm_str text) {
  for (size_t i = 0; i < text.len;) {
    size_t length = code_point((const unsigned char *)text.ptr + i, text.len - i);
    if (length == 0) return false;
    i += length;
  }
  return true;
}

size_t tm_count_code_points(tm_str text) {
  size_t count = 0;
  for (size_t i = 0; i < text.len; i++) count += ((unsigned char)text.ptr[i] & 0xc0) != 0x80;
  return count;
}

/* The text with every byte that is not UTF-8 as a question mark: a message is to arrive, whatever it quotes. */
static tm_str printable(tm_str text) {
  if (tm_is_utf8(text)) return text;
  char *copy = take(text.len);
  for (size_t i = 0; i < text.len;) {
    size_t length = code_point((const unsigned char *)text.ptr + i, text.len - i);
    if (length == 0) copy[i++] = '?';
    else {
      memcpy(copy + i, text.ptr + i, length);
      i += length;
    }
  }
  return (tm_str){copy, text.len};
}

/* ---- Results ---- */

tm_result tm_ok(void) { return (tm_result){0}; }

tm_output *tm_publish(tm_result *result, tm_str subject, tm_str payload) {
  if (result->is_failure) tm_panic("an output was added to a failure");
  tm_outputs *outputs = &result->as.outputs;
  /* Room is doubled whenever the number is a power of two. */
  if ((outputs->len & (outputs->len - 1)) == 0) {
    size_t bytes = outputs->len * sizeof(tm_output);
    outputs->ptr = extend(outputs->ptr, bytes, bytes ? 2 * bytes : sizeof(tm_output));
  }
  tm_output *output = &outputs->ptr[outputs->len++];
  *output = (tm_output){.subject = subject, .payload = payload};
  return output;
}

tm_output *tm_publish_json(tm_result *result, tm_str subject, tm_str payload) {
  tm_output *output = tm_publish(result, subject, payload);
  tm_set_content_type(output, TM_STR("application/json"));
  return output;
}

void tm_set_kind(tm_output *output, tm_str kind) { output->kind = (tm_optional_str){true, kind}; }

void tm_set_content_type(tm_output *output, tm_str type) { output->content_type = (tm_optional_str){true, type}; }

void tm_add_header(tm_output *output, tm_str name, tm_str value) {
  tm_headers *headers = &output->headers;
  size_t bytes = headers->len * sizeof(tm_header);
  headers->ptr = extend(headers->ptr, bytes, bytes + sizeof(tm_header));
  headers->ptr[headers->len++] = (tm_header){name, value};
}

static tm_result fail(tm_verdict verdict, const char *format, va_list arguments) {
  tm_result result = {.is_failure = 1};
  result.as.failure = (tm_failure){.verdict = verdict, .error.message = printable(tm_vformat(format, arguments))};
  return result;
}

tm_result tm_retry(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  tm_result result = fail(TM_RETRY, format, arguments);
  va_end(arguments);
  return result;
}

tm_result tm_retry_after(uint32_t delay_ms, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  tm_result result = fail(TM_RETRY, format, arguments);
  va_end(arguments);
  result.as.failure.delay_ms = (tm_optional_u32){true, delay_ms};
  return result;
}

tm_result tm_reject(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  tm_result result = fail(TM_REJECT, format, arguments);
  va_end(arguments);
  return result;
}

void tm_set_code(tm_result *failure, int32_t code) {
  if (!failure->is_failure) tm_panic("a code was given to a success");
  failure->as.failure.error.code = (tm_optional_s32){true, code};
}

void tm_set_detail(tm_result *failure, tm_str detail) {
  if (!failure->is_failure) tm_panic("a detail was given to a success");
  failure->as.failure.error.detail = (tm_optional_str){true, printable(detail)};
}

tm_optional_str tm_get_header(const tm_event *event, tm_str name) {
  for (size_t i = 0; i < event->headers.len; i++) {
    tm_header header = event->headers.ptr[i];
    if (header.name.len == name.len && strncasecmp(header.name.ptr, name.ptr, name.len) == 0) {
      return (tm_optional_str){true, header.value};
    }
  }
  return (tm_optional_str){0};
}

/* ---- Log lines ---- */

static void log_line(tm_level level, tm_str context, tm_str message);

void tm_log(tm_level level, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  log_line(level, TM_STR("handler"), printable(tm_vformat(format, arguments)));
  va_end(arguments);
}

TM_NORETURN void tm_panic(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  log_line(TM_CRITICAL, TM_STR("panic"), printable(tm_vformat(format, arguments)));
  va_end(arguments);
  abort();
}

#ifdef __wasm__

/* ---- The component: what the host calls, and what it offers ---- */

#define IMPORT(module, name) __attribute__((import_module(module), import_name(name)))
#define EXPORT(name) __attribute__((export_name(name)))

IMPORT("wasi:logging/logging@0.1.0-draft", "log")
extern void import_log(int32_t level, const char *context, size_t context_len, const char *message, size_t message_len);

typedef struct setting {
  uint8_t is_error;
  union {
    tm_optional_str value;
    struct {
      uint8_t tag;
      tm_str reason;
    } error;
  } as;
} setting;

IMPORT("wasi:config/store@0.2.0-rc.1", "get")
extern void import_config_get(const char *key, size_t key_len, setting *out);

static void log_line(tm_level level, tm_str context, tm_str message) {
  import_log(level, context.ptr, context.len, message.ptr, message.len);
}

tm_optional_str tm_config(tm_str key) {
  setting found;
  import_config_get(key.ptr, key.len, &found);
  if (found.is_error) tm_panic("the setting %.*s cannot be read: %.*s", TM_ARG(key), TM_ARG(found.as.error.reason));
  return found.as.value;
}

/* Where the host puts what it hands over. */
EXPORT("cabi_realloc")
void *cabi_realloc(void *old, size_t old_bytes, size_t alignment, size_t bytes) {
  (void)alignment; /* never more than ours */
  return bytes ? extend(old, old_bytes, bytes) : NULL;
}

/* Memory of the adapter for WASI preview 1, which keeps it. */
EXPORT("cabi_realloc_adapter")
void *cabi_realloc_adapter(void *old, size_t old_bytes, size_t alignment, size_t bytes) {
  (void)old_bytes;
  (void)alignment;
  void *fresh = realloc(old, bytes);
  if (!fresh) abort();
  return fresh;
}

static tm_result result;

EXPORT("tidemill:handler/handler@0.1.0#handle")
tm_result *handle_event(const tm_event *event) {
  result = tm_handle(event);
  fflush(NULL);
  return &result;
}

/* The host has read the result. */
EXPORT("cabi_post_tidemill:handler/handler@0.1.0#handle")
void event_handled(tm_result *read) {
  (void)read;
  tm_end_call();
}

#else

/* ---- Natively, for unit tests ---- */

enum { SETTINGS_MAX = 64 };
static struct {
  const char *key, *value;
} settings[SETTINGS_MAX];

static void log_line(tm_level level, tm_str context, tm_str message) {
  static const char *const names[] = {"trace", "debug", "info", "warn", "error", "critical"};
  fprintf(stderr, "%s %.*s: %.*s\n", names[level], TM_ARG(context), TM_ARG(message));
}

tm_optional_str tm_config(tm_str key) {
  for (size_t i = 0; i < SETTINGS_MAX; i++) {
    if (settings[i].value && tm_is(key, settings[i].key)) return (tm_optional_str){true, tm_str_of(settings[i].value)};
  }
  return (tm_optional_str){0};
}

void tm_test_set_config(const char *key, const char *value) {
  size_t free_at = SETTINGS_MAX;
  for (size_t i = SETTINGS_MAX; i-- > 0;) {
    if (!settings[i].value) free_at = i;
  }
  for (size_t i = 0; i < SETTINGS_MAX; i++) {
    if (settings[i].value && strcmp(settings[i].key, key) == 0) free_at = i;
  }
  if (free_at == SETTINGS_MAX) tm_panic("a test has more than %d settings", SETTINGS_MAX);
  settings[free_at].key = key;
  settings[free_at].value = value;
}

tm_event tm_test_event(const char *subject, const char *payload) {
  return (tm_event){
      .id = TM_STR("event-1"),
      .subject = tm_str_of(subject),
      .correlation_id = TM_STR("event-1"),
      .attempt = 1,
      .max_attempts = 5,
      .payload = tm_str_of(payload),
  };
}

#endif
