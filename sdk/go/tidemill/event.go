// Package tidemill is for event handlers in Go: functions from an event to the messages that follow from it.
//
// A plugin is a program whose main function does nothing and which passes its handler to [Handle] in an init
// function. Everything but the WebAssembly ABI works natively too, under go test.
package tidemill

import (
	"encoding/json"
	"strings"
	"time"
)

// An Event is what a handler is given. It looks the same however the message was encoded on the wire. Optional
// texts are empty where the message does not have them.
type Event struct {
	// ID is the same for every attempt and every duplicate: the idempotency key for effects elsewhere.
	ID string
	// Subject is the one the event was first published on.
	Subject string
	// Kind is what kind of event it is, the CloudEvents type; optional.
	Kind string
	// Source is where it comes from, the CloudEvents source; optional.
	Source string
	// Time is when it happened; the zero time where that is unknown.
	Time time.Time
	// ContentType is the media type of the payload; optional.
	ContentType string
	// CorrelationID is shared by all events that follow from the same first event.
	CorrelationID string
	// CausationID is the id of the event whose handling published this one; optional.
	CausationID string
	// Attempt is which attempt this is, counted from 1.
	Attempt uint32
	// MaxAttempts is after how many failed attempts the event goes to the dead letters.
	MaxAttempts uint32
	// Headers are sorted by name; a name may occur more than once.
	Headers []Header
	// Payload is the event's data, unchanged.
	Payload []byte
}

// A Header of a message.
type Header struct{ Name, Value string }

// JSON reads the payload into what target points to, as [json.Unmarshal] does. Its error is a rejection: what does
// not fit now never will.
func (e Event) JSON(target any) error {
	if err := json.Unmarshal(e.Payload, target); err != nil {
		return Reject("the payload is not the JSON that is expected: %w", err)
	}
	return nil
}

// Header returns the first header of this name, whatever its case, and whether there is one.
func (e Event) Header(name string) (string, bool) {
	for _, header := range e.Headers {
		if strings.EqualFold(header.Name, name) {
			return header.Value, true
		}
	}
	return "", false
}

// IsLastAttempt tells whether the event goes to the dead letters if this attempt fails.
func (e Event) IsLastAttempt() bool { return e.Attempt >= e.MaxAttempts }

// An Output is a message to be published. It takes effect only if the handler returns no error.
type Output struct {
	// Subject is where to publish; the handler must be granted it (allow.publish).
	Subject string
	// Kind makes the message a CloudEvent of this type, if it is not empty.
	Kind string
	// ContentType is the media type of the payload; optional.
	ContentType string
	// Headers are additional ones.
	Headers []Header
	// Payload is the message's data.
	Payload []byte
}

// JSON makes a message with a JSON payload. Its error is a rejection: the value has no JSON form.
func JSON(subject string, value any) (Output, error) {
	payload, err := json.Marshal(value)
	if err != nil {
		return Output{}, Reject("an output cannot be written as JSON: %w", err)
	}
	return Output{Subject: subject, ContentType: "application/json", Payload: payload}, nil
}

// TestEvent is a first attempt of five at an event with this payload, for unit tests.
func TestEvent(subject, payload string) Event {
	return Event{
		ID: "event-1", Subject: subject, CorrelationID: "event-1", Attempt: 1, MaxAttempts: 5, Payload: []byte(payload),
	}
}
