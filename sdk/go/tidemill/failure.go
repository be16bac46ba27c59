package tidemill

import (
	"fmt"
	"time"
)

// A Failure says why an event could not be handled, and so what becomes of it. Every other error that a handler
// returns counts as [Retry].
type Failure struct {
	// Rejected is whether it can never work, so that the event goes to the dead letters at once.
	Rejected bool
	// Message is one sentence that says what went wrong.
	Message string
	// Code is one of the handler's own, such as an HTTP status; none if it is nil.
	Code *int32
	// Detail is more about it, such as a response; optional.
	Detail string
	// After is the handler's wish for the delay until the next attempt; none if it is nil.
	After *time.Duration

	cause error
}

// Retry says that it may work later: the event is attempted again as the policy says. Arguments as of [fmt.Errorf].
func Retry(format string, arguments ...any) *Failure { return fail(false, format, arguments) }

// Reject says that it can never work: the event goes to the dead letters at once. Arguments as of [fmt.Errorf].
func Reject(format string, arguments ...any) *Failure { return fail(true, format, arguments) }

func fail(rejected bool, format string, arguments []any) *Failure {
	cause := fmt.Errorf(format, arguments...)
	return &Failure{Rejected: rejected, Message: cause.Error(), cause: cause}
}

// WithCode sets the code, and returns the failure itself.
func (f *Failure) WithCode(code int32) *Failure {
	f.Code = &code
	return f
}

// WithDetail sets the detail, and returns the failure itself.
func (f *Failure) WithDetail(detail string) *Failure {
	f.Detail = detail
	return f
}

// WithDelay sets the wish for the delay, and returns the failure itself.
func (f *Failure) WithDelay(delay time.Duration) *Failure {
	f.After = &delay
	return f
}

// Error is the message.
func (f *Failure) Error() string { return f.Message }

// Unwrap is the error that was wrapped with %w, if any.
func (f *Failure) Unwrap() error { return f.cause }
