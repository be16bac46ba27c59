#include "tidemill.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- Reading ---- */

enum { DEPTH_MAX = 100 };

typedef struct reader {
  const char *begin, *at, *end;
  const char *error;
} reader;

static bool refuse(reader *r, const char *error) {
  if (!r->error) r->error = error;
  return false;
}

static void skip_space(reader *r) {
  while (r->at < r->end && (*r->at == ' ' || *r->at == '\t' || *r->at == '\n' || *r->at == '\r')) r->at++;
}

static bool next_is(reader *r, char wanted) {
  skip_space(r);
  if (r->at == r->end || *r->at != wanted) return false;
  r->at++;
  return true;
}

static bool read_hex(reader *r, unsigned *out) {
  if (r->end - r->at < 4) return refuse(r, "an escape is cut off");
  *out = 0;
  for (int i = 0; i < 4; i++) {
    char c = *r->at++;
    int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
    if (digit < 0) return refuse(r, "an escape has no four hexadecimal digits");
    *out = *out << 4 | (unsigned)digit;
  }
  return true;
}

static char *write_utf8(char *to, unsigned c) {
  if (c < 0x80) {
    *to++ = (char)c;
    return to;
  }
  int more = c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
  static const unsigned char leads[] = {0, 0xc0, 0xe0, 0xf0};
  *to++ = (char)(leads[more] | c >> (6 * more));
  while (more-- > 0) *to++ = (char)(0x80 | (c >> (6 * more) & 0x3f));
  return to;
}

/* The code point of a \u escape, after its u. */
static bool read_code_point(reader *r, unsigned *out) {
  if (!read_hex(r, out)) return false;
  if (*out < 0xd800 || *out >= 0xe000) return true;
  unsigned low;
  bool pair = *out < 0xdc00 && r->end - r->at >= 2 && r->at[0] == '\\' && r->at[1] == 'u';
  if (!pair) return refuse(r, "an escape is half a surrogate pair");
  r->at += 2;
  if (!read_hex(r, &low)) return false;
  if (low < 0xdc00 || low >= 0xe000) return refuse(r, "an escape is half a surrogate pair");
  *out = 0x10000 + ((*out - 0xd800) << 10 | (low - 0xdc00));
  return true;
}

static bool read_escape(reader *r, char **to) {
  static const char escapes[] = "\"\\/bfnrt", meanings[] = "\"\\/\b\f\n\r\t";
  if (r->at == r->end) return refuse(r, "a string does not end");
  char c = *r->at++;
  if (c == 'u') {
    unsigned code;
    if (!read_code_point(r, &code)) return false;
    *to = write_utf8(*to, code);
    return true;
  }
  const char *found = c ? strchr(escapes, c) : NULL;
  if (!found) return refuse(r, "there is no such escape");
  *(*to)++ = meanings[found - escapes];
  return true;
}

/* A string after its first quote. Without escapes it stays where it is. */
static bool read_string(reader *r, tm_str *out) {
  const char *from = r->at;
  while (r->at < r->end && *r->at != '"' && *r->at != '\\' && (unsigned char)*r->at >= 0x20) r->at++;
  if (r->at < r->end && *r->at == '"') {
    *out = (tm_str){from, (size_t)(r->at++ - from)};
    return true;
  }
  const char *close = r->at;
  while (close < r->end && *close != '"') close += *close == '\\' && close + 1 < r->end ? 2 : 1;
  char *copy = tm_alloc((size_t)(close - from)), *to = copy;
  memcpy(to, from, (size_t)(r->at - from));
  to += r->at - from;
  while (r->at < r->end) {
    char c = *r->at++;
    if (c == '"') {
      *out = (tm_str){copy, (size_t)(to - copy)};
      return true;
    }
    if ((unsigned char)c < 0x20) {
      r->at--;
      return refuse(r, "a string holds a control character");
    }
    if (c != '\\') *to++ = c;
    else if (!read_escape(r, &to)) return false;
  }
  return refuse(r, "a string does not end");
}

static bool digits(reader *r) {
  const char *from = r->at;
  while (r->at < r->end && *r->at >= '0' && *r->at <= '9') r->at++;
  return r->at > from;
}

static bool read_number(reader *r, tm_json *out) {
  const char *from = r->at;
  if (*r->at == '-') r->at++;
  bool leading_zero = r->at < r->end && *r->at == '0';
  if (leading_zero) r->at++;
  else if (!digits(r)) return refuse(r, "there is no value");
  if (r->at < r->end && *r->at == '.') {
    r->at++;
    if (!digits(r)) return refuse(r, "a number ends with its point");
  }
  if (r->at < r->end && (*r->at == 'e' || *r->at == 'E')) {
    r->at++;
    if (r->at < r->end && (*r->at == '+' || *r->at == '-')) r->at++;
    if (!digits(r)) return refuse(r, "a number has no exponent");
  }
  *out = (tm_json){.type = TM_NUMBER, .text = {from, (size_t)(r->at - from)}};
  return true;
}

static bool read_word(reader *r, tm_json *out) {
  static const struct {
    tm_str word;
    tm_json value;
  } words[] = {
      {{"true", 4}, {.type = TM_BOOL, .truth = true}},
      {{"false", 5}, {.type = TM_BOOL}},
      {{"null", 4}, {.type = TM_NULL}},
  };
  for (int i = 0; i < 3; i++) {
    size_t len = words[i].word.len;
    if ((size_t)(r->end - r->at) >= len && memcmp(r->at, words[i].word.ptr, len) == 0) {
      r->at += len;
      *out = words[i].value;
      return true;
    }
  }
  return refuse(r, "there is no value");
}

static bool read_value(reader *r, tm_json *out, int depth);

/* The values of a list or object, after its bracket. */
static bool read_values(reader *r, tm_json *out, bool keys, int depth) {
  char close = keys ? '}' : ']';
  tm_json **end = &out->first;
  *out = (tm_json){.type = keys ? TM_OBJECT : TM_ARRAY};
  if (next_is(r, close)) return true;
  do {
    tm_str key = {0};
    if (keys) {
      if (!next_is(r, '"')) return refuse(r, "a key is missing");
      if (!read_string(r, &key)) return false;
      if (!next_is(r, ':')) return refuse(r, "a colon is missing");
    }
    tm_json *value = tm_alloc(sizeof *value);
    if (!read_value(r, value, depth)) return false;
    value->key = key;
    *end = value;
    end = &value->next;
    out->count++;
  } while (next_is(r, ','));
  return next_is(r, close) || refuse(r, keys ? "a comma or } is missing" : "a comma or ] is missing");
}

static bool read_value(reader *r, tm_json *out, int depth) {
  if (depth > DEPTH_MAX) return refuse(r, "it is too deep");
  skip_space(r);
  if (r->at == r->end) return refuse(r, "it ends too early");
  switch (*r->at) {
    case '{': r->at++; return read_values(r, out, true, depth + 1);
    case '[': r->at++; return read_values(r, out, false, depth + 1);
    case '"':
      r->at++;
      *out = (tm_json){.type = TM_STRING};
      return read_string(r, &out->text);
    case 't': case 'f': case 'n': return read_word(r, out);
    default: return read_number(r, out);
  }
}

const tm_json *tm_json_read(tm_str text, tm_str *error) {
  reader r = {.begin = text.ptr, .at = text.ptr, .end = text.ptr + text.len};
  tm_json *value = tm_alloc(sizeof *value);
  if (!tm_is_utf8(text)) refuse(&r, "it is not UTF-8");
  else if (read_value(&r, value, 0)) {
    skip_space(&r);
    if (r.at != r.end) refuse(&r, "there is more after its end");
  }
  if (!r.error) return value;
  if (error) *error = tm_format("%s, at byte %zu", r.error, (size_t)(r.at - r.begin));
  return NULL;
}

const tm_json *tm_event_json(const tm_event *event, tm_result *failure) {
  tm_str error;
  const tm_json *value = tm_json_read(event->payload, &error);
  if (!value) *failure = tm_reject("the payload is not JSON: %.*s", TM_ARG(error));
  return value;
}

const tm_json *tm_json_get(const tm_json *object, const char *key) {
  const tm_json *found = NULL;
  if (!object || object->type != TM_OBJECT) return NULL;
  for (const tm_json *value = object->first; value; value = value->next) {
    if (tm_is(value->key, key)) found = value;
  }
  return found;
}

bool tm_json_get_text(const tm_json *object, const char *key, tm_str *out) {
  const tm_json *value = tm_json_get(object, key);
  if (!value || value->type != TM_STRING) return false;
  *out = value->text;
  return true;
}

bool tm_json_get_bool(const tm_json *object, const char *key, bool *out) {
  const tm_json *value = tm_json_get(object, key);
  if (!value || value->type != TM_BOOL) return false;
  *out = value->truth;
  return true;
}

bool tm_json_to_int(const tm_json *value, int64_t *out) {
  if (!value || value->type != TM_NUMBER) return false;
  bool negative = value->text.ptr[0] == '-';
  uint64_t sum = 0, most = (uint64_t)INT64_MAX + negative;
  for (size_t i = negative; i < value->text.len; i++) {
    if (value->text.ptr[i] < '0' || value->text.ptr[i] > '9') return false;
    uint64_t digit = (uint64_t)(value->text.ptr[i] - '0');
    if (sum > (most - digit) / 10) return false;
    sum = sum * 10 + digit;
  }
  *out = (int64_t)(negative ? 0 - sum : sum);
  return true;
}

bool tm_json_to_number(const tm_json *value, double *out) {
  if (!value || value->type != TM_NUMBER) return false;
  tm_str text = tm_format("%.*s", TM_ARG(value->text));
  *out = strtod(text.ptr, NULL);
  return true;
}

bool tm_json_get_int(const tm_json *object, const char *key, int64_t *out) {
  return tm_json_to_int(tm_json_get(object, key), out);
}

bool tm_json_get_number(const tm_json *object, const char *key, double *out) {
  return tm_json_to_number(tm_json_get(object, key), out);
}

/* ---- Writing ---- */

static void put(tm_writer *w, const char *bytes, size_t len) {
  if (w->room - w->len < len) {
    size_t room = w->room * 2 > w->len + len ? w->room * 2 : w->len + len + 256;
    char *grown = tm_alloc(room);
    if (w->len) memcpy(grown, w->ptr, w->len);
    w->ptr = grown;
    w->room = room;
  }
  if (len) memcpy(w->ptr + w->len, bytes, len);
  w->len += len;
}

static void put_value(tm_writer *w, const char *bytes, size_t len) {
  if (w->needs_comma) put(w, ",", 1);
  put(w, bytes, len);
  w->needs_comma = true;
}

static void put_open(tm_writer *w, const char *bracket) {
  put_value(w, bracket, 1);
  w->needs_comma = false;
}

static void put_close(tm_writer *w, const char *bracket) {
  put(w, bracket, 1);
  w->needs_comma = true;
}

void tm_object(tm_writer *w) { put_open(w, "{"); }
void tm_array(tm_writer *w) { put_open(w, "["); }
void tm_end_object(tm_writer *w) { put_close(w, "}"); }
void tm_end_array(tm_writer *w) { put_close(w, "]"); }

void tm_put_text(tm_writer *w, tm_str text) {
  put_value(w, "\"", 1);
  size_t plain = 0;
  for (size_t i = 0; i < text.len; i++) {
    unsigned char c = (unsigned char)text.ptr[i];
    if (c >= 0x20 && c != '"' && c != '\\') continue;
    put(w, text.ptr + plain, i - plain);
    plain = i + 1;
    char escape[7];
    if (c >= 0x20) snprintf(escape, sizeof escape, "\\%c", c);
    else snprintf(escape, sizeof escape, "\\u%04x", c);
    put(w, escape, strlen(escape));
  }
  put(w, text.ptr + plain, text.len - plain);
  put(w, "\"", 1);
}

void tm_key(tm_writer *w, tm_str key) {
  tm_put_text(w, key);
  put(w, ":", 1);
  w->needs_comma = false;
}

void tm_put_int(tm_writer *w, int64_t number) {
  char text[24];
  int len = snprintf(text, sizeof text, "%lld", (long long)number);
  put_value(w, text, (size_t)len);
}

void tm_put_number(tm_writer *w, double number) {
  char text[40];
  if (!isfinite(number)) {
    tm_put_null(w);
    return;
  }
  /* As few digits as say the same number. */
  for (int digits_shown = 15; digits_shown <= 17; digits_shown++) {
    snprintf(text, sizeof text, "%.*g", digits_shown, number);
    if (strtod(text, NULL) == number) break;
  }
  put_value(w, text, strlen(text));
}

void tm_put_bool(tm_writer *w, bool truth) { put_value(w, truth ? "true" : "false", truth ? 4 : 5); }
void tm_put_null(tm_writer *w) { put_value(w, "null", 4); }

tm_str tm_written(const tm_writer *w) { return (tm_str){w->ptr, w->len}; }
