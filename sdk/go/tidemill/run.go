package tidemill

import (
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
)

// A Handler handles one event: it returns what is to be published, or why it failed.
type Handler func(Event) ([]Output, error)

var handler Handler = func(Event) ([]Output, error) {
	return nil, Retry("the plugin has no handler: pass one to tidemill.Handle in an init function")
}

// Handle makes a function the plugin's handler. To be called in an init function.
func Handle(h Handler) { handler = h }

// run calls the handler. A panic becomes a failed attempt with its stack as the detail: as a trap, it would tell
// neither.
func run(event Event) (outputs []Output, failure *Failure) {
	defer func() {
		if reason := recover(); reason != nil {
			failure = Retry("panic: %s", fmt.Sprint(reason)).WithDetail(stackOfPanic(string(debug.Stack())))
		}
	}()
	outputs, err := handler(event)
	if err == nil {
		return outputs, nil
	}
	if !errors.As(err, &failure) {
		return nil, Retry("%w", err)
	}
	if failure.Message != err.Error() { // wrapped in one that says more
		copied := *failure
		copied.Message = err.Error()
		failure = &copied
	}
	return nil, failure
}

// stackOfPanic leaves out what lies above the panic: the functions that make the stack's text.
func stackOfPanic(stack string) string {
	_, rest, found := strings.Cut(stack, "\npanic(")
	if !found {
		return stack
	}
	for range 2 { // the rest of panic's line, and the line of its place
		_, rest, _ = strings.Cut(rest, "\n")
	}
	return rest
}
