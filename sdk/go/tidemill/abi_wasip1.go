package tidemill

import (
	"strings"
	"time"
	"unsafe"
)

// result is what the host reads after a call; what it points to is kept until the host has.
var (
	result rawResult
	kept   struct {
		outputs    []Output
		failure    *Failure
		rawOutputs []rawOutput
		rawHeaders [][]rawHeader
	}
)

//go:wasmexport tidemill:handler/handler@0.1.0#handle
func handleEvent(event unsafe.Pointer) unsafe.Pointer {
	copied := lift((*rawEvent)(event))
	releaseArguments()
	beginCollecting()
	kept.outputs, kept.failure = run(copied)
	result = rawResult{}
	if kept.failure == nil {
		*(*rawList)(unsafe.Pointer(&result.failure)) = lowerOutputs(kept.outputs)
	} else {
		result.isFailure = 1
		result.failure = lowerFailure(kept.failure)
	}
	endCollecting()
	return unsafe.Pointer(&result)
}

//go:wasmexport cabi_post_tidemill:handler/handler@0.1.0#handle
func eventHandled(unsafe.Pointer) {
	kept.outputs, kept.failure, kept.rawOutputs, kept.rawHeaders = nil, nil, nil, nil
}

// Lifting copies: the memory of arguments is used again.

func pointer(address uint32) unsafe.Pointer {
	return unsafe.Pointer(uintptr(address))
}

func liftString(raw rawString) string {
	return strings.Clone(unsafe.String((*byte)(pointer(raw.ptr)), raw.len))
}

func liftOption(raw rawOptionString) string {
	if raw.isSome == 0 {
		return ""
	}
	return liftString(raw.value)
}

func lift(raw *rawEvent) Event {
	event := Event{
		ID:            liftString(raw.id),
		Subject:       liftString(raw.subject),
		Kind:          liftOption(raw.kind),
		Source:        liftOption(raw.source),
		ContentType:   liftOption(raw.contentType),
		CorrelationID: liftString(raw.correlationId),
		CausationID:   liftOption(raw.causationId),
		Attempt:       raw.attempt,
		MaxAttempts:   raw.maxAttempts,
		Payload:       append([]byte{}, unsafe.Slice((*byte)(pointer(raw.payload.ptr)), raw.payload.len)...),
	}
	if raw.timeMs.isSome != 0 {
		event.Time = time.UnixMilli(int64(raw.timeMs.value)).UTC()
	}
	for _, header := range unsafe.Slice((*rawHeader)(pointer(raw.headers.ptr)), raw.headers.len) {
		event.Headers = append(event.Headers, Header{liftString(header.name), liftString(header.value)})
	}
	return event
}

// Lowering copies nothing: the collector does not move what is kept.

func address[T any](first *T) uint32 {
	return uint32(uintptr(unsafe.Pointer(first)))
}

func lowerString(text string) rawString {
	return rawString{address(unsafe.StringData(text)), uint32(len(text))}
}

func lowerOption(text string) rawOptionString {
	if text == "" {
		return rawOptionString{}
	}
	return rawOptionString{1, lowerString(text)}
}

func lowerList[T any](list []T) rawList {
	return rawList{address(unsafe.SliceData(list)), uint32(len(list))}
}

func lowerOutputs(outputs []Output) rawList {
	kept.rawOutputs = make([]rawOutput, len(outputs))
	for i := range outputs {
		output := &outputs[i]
		headers := make([]rawHeader, len(output.Headers))
		for j, header := range output.Headers {
			headers[j] = rawHeader{lowerString(header.Name), lowerString(header.Value)}
		}
		kept.rawHeaders = append(kept.rawHeaders, headers)
		kept.rawOutputs[i] = rawOutput{
			subject:     lowerString(output.Subject),
			kind:        lowerOption(output.Kind),
			contentType: lowerOption(output.ContentType),
			headers:     lowerList(headers),
			payload:     lowerList(output.Payload),
		}
	}
	return lowerList(kept.rawOutputs)
}

func lowerFailure(failure *Failure) rawFailure {
	// The host takes nothing but UTF-8, and a failure may quote anything.
	failure.Message = strings.ToValidUTF8(failure.Message, "\uFFFD")
	failure.Detail = strings.ToValidUTF8(failure.Detail, "\uFFFD")
	raw := rawFailure{verdict: rawRetry}
	if failure.Rejected {
		raw.verdict = rawReject
	} else if failure.After != nil {
		ms := min(max(failure.After.Milliseconds(), 0), 1<<32-1)
		raw.delay = rawOption32{1, uint32(ms)}
	}
	if failure.Code != nil {
		raw.error.code = rawOption32{1, uint32(*failure.Code)}
	}
	raw.error.message = lowerString(failure.Message)
	raw.error.detail = lowerOption(failure.Detail)
	return raw
}
