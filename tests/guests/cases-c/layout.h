/* Written by `UPDATE_GOLDEN=1 cargo test --workspace --lib layout` from wit/handler.wit. */
#include <stddef.h>

#include "tidemill.h"

_Static_assert(sizeof(tm_event) == 112, "event");
_Static_assert(offsetof(tm_event, id) == 0, "event.id");
_Static_assert(offsetof(tm_event, subject) == 8, "event.subject");
_Static_assert(offsetof(tm_event, kind) == 16, "event.kind");
_Static_assert(offsetof(tm_event, source) == 28, "event.source");
_Static_assert(offsetof(tm_event, time_ms) == 40, "event.time_ms");
_Static_assert(offsetof(tm_event, content_type) == 56, "event.content_type");
_Static_assert(offsetof(tm_event, correlation_id) == 68, "event.correlation_id");
_Static_assert(offsetof(tm_event, causation_id) == 76, "event.causation_id");
_Static_assert(offsetof(tm_event, attempt) == 88, "event.attempt");
_Static_assert(offsetof(tm_event, max_attempts) == 92, "event.max_attempts");
_Static_assert(offsetof(tm_event, headers) == 96, "event.headers");
_Static_assert(offsetof(tm_event, payload) == 104, "event.payload");

_Static_assert(sizeof(tm_output) == 48, "output");
_Static_assert(offsetof(tm_output, subject) == 0, "output.subject");
_Static_assert(offsetof(tm_output, kind) == 8, "output.kind");
_Static_assert(offsetof(tm_output, content_type) == 20, "output.content_type");
_Static_assert(offsetof(tm_output, headers) == 32, "output.headers");
_Static_assert(offsetof(tm_output, payload) == 40, "output.payload");

_Static_assert(sizeof(tm_error) == 28, "error");
_Static_assert(offsetof(tm_error, code) == 0, "error.code");
_Static_assert(offsetof(tm_error, message) == 8, "error.message");
_Static_assert(offsetof(tm_error, detail) == 16, "error.detail");

_Static_assert(sizeof(tm_failure) == 40, "failure");
_Static_assert(offsetof(tm_failure, error) == 4, "failure.error");
