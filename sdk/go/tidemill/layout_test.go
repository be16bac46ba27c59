// Written by `UPDATE_GOLDEN=1 cargo test --workspace --lib layout` from wit/handler.wit.

package tidemill

import (
	"testing"
	"unsafe"
)

func TestTheContractsTypesLieInMemoryAsTheyShould(t *testing.T) {
	var event rawEvent
	var output rawOutput
	var error rawError
	var failure rawFailure
	for _, check := range []struct {
		name          string
		found, wanted uintptr
	}{
		{"event", unsafe.Sizeof(event), 112},
		{"event.id", unsafe.Offsetof(event.id), 0},
		{"event.subject", unsafe.Offsetof(event.subject), 8},
		{"event.kind", unsafe.Offsetof(event.kind), 16},
		{"event.source", unsafe.Offsetof(event.source), 28},
		{"event.time-ms", unsafe.Offsetof(event.timeMs), 40},
		{"event.content-type", unsafe.Offsetof(event.contentType), 56},
		{"event.correlation-id", unsafe.Offsetof(event.correlationId), 68},
		{"event.causation-id", unsafe.Offsetof(event.causationId), 76},
		{"event.attempt", unsafe.Offsetof(event.attempt), 88},
		{"event.max-attempts", unsafe.Offsetof(event.maxAttempts), 92},
		{"event.headers", unsafe.Offsetof(event.headers), 96},
		{"event.payload", unsafe.Offsetof(event.payload), 104},
		{"output", unsafe.Sizeof(output), 48},
		{"output.subject", unsafe.Offsetof(output.subject), 0},
		{"output.kind", unsafe.Offsetof(output.kind), 8},
		{"output.content-type", unsafe.Offsetof(output.contentType), 20},
		{"output.headers", unsafe.Offsetof(output.headers), 32},
		{"output.payload", unsafe.Offsetof(output.payload), 40},
		{"error", unsafe.Sizeof(error), 28},
		{"error.code", unsafe.Offsetof(error.code), 0},
		{"error.message", unsafe.Offsetof(error.message), 8},
		{"error.detail", unsafe.Offsetof(error.detail), 16},
		{"failure", unsafe.Sizeof(failure), 40},
		{"failure.error", unsafe.Offsetof(failure.error), 4},
	} {
		if check.found != check.wanted {
			t.Errorf("%s: %d instead of %d", check.name, check.found, check.wanted)
		}
	}
}
