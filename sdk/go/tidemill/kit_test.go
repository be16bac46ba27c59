//go:build !wasip1

package tidemill

import (
	"errors"
	"io"
	"strings"
	"testing"
	"time"
)

func runWith(h Handler) ([]Output, *Failure) {
	Handle(h)
	return run(TestEvent("a.b", `{"n": "x"}`))
}

func TestOutputsGoThrough(t *testing.T) {
	outputs, failure := runWith(func(event Event) ([]Output, error) {
		output, err := JSON("out."+event.Subject, map[string]int{"a": 1})
		return []Output{output}, err
	})
	if failure != nil || len(outputs) != 1 {
		t.Fatal(outputs, failure)
	}
	output := outputs[0]
	if output.Subject != "out.a.b" || output.ContentType != "application/json" || string(output.Payload) != `{"a":1}` {
		t.Error(output)
	}
}

func TestErrorsBecomeFailures(t *testing.T) {
	sent := Retry("busy: %w", io.EOF).WithCode(503).WithDelay(time.Second).WithDetail("body")
	if !errors.Is(sent, io.EOF) {
		t.Error("the cause is lost")
	}
	for _, test := range []struct {
		err      error
		rejected bool
		message  string
	}{
		{io.EOF, false, "EOF"},
		{sent, false, "busy: EOF"},
		{Reject("no %s", "good"), true, "no good"},
		{errors.Join(errors.New("first"), Reject("then")), true, "first\nthen"},
	} {
		_, failure := runWith(func(Event) ([]Output, error) { return nil, test.err })
		if failure == nil || failure.Rejected != test.rejected || failure.Message != test.message {
			t.Errorf("%v: %+v", test.err, failure)
		}
	}
	_, failure := runWith(func(Event) ([]Output, error) { return []Output{{}}, sent })
	if *failure.Code != 503 || *failure.After != time.Second || failure.Detail != "body" {
		t.Errorf("%+v", failure)
	}
}

func TestPanicsTellTheirStack(t *testing.T) {
	_, failure := runWith(func(Event) ([]Output, error) { return goesWrong() })
	if failure == nil || failure.Rejected || failure.Message != "panic: asked to panic" {
		t.Fatalf("%+v", failure)
	}
	first, _, _ := strings.Cut(failure.Detail, "\n")
	if !strings.Contains(first, "goesWrong") || !strings.Contains(failure.Detail, "kit_test.go") {
		t.Error(failure.Detail)
	}
}

//go:noinline
func goesWrong() ([]Output, error) { panic("asked to panic") }

func TestRuntimeErrorsAreFailuresToo(t *testing.T) {
	_, failure := runWith(func(event Event) ([]Output, error) {
		var none *Event
		return []Output{{Subject: none.Subject}}, nil
	})
	if failure == nil || !strings.Contains(failure.Message, "nil pointer") {
		t.Errorf("%+v", failure)
	}
}

func TestWhatIsNotTheJSONThatIsExpectedIsRejected(t *testing.T) {
	var target struct{ N int }
	_, failure := runWith(func(event Event) ([]Output, error) { return nil, event.JSON(&target) })
	if failure == nil || !failure.Rejected || !strings.HasPrefix(failure.Message, "the payload is not the JSON") {
		t.Errorf("%+v", failure)
	}
	if _, err := JSON("a", make(chan int)); err == nil {
		t.Error("a channel has no JSON form")
	}
}

func TestEvents(t *testing.T) {
	event := TestEvent("a", "")
	event.Headers = []Header{{"Tenant", "acme"}, {"tenant", "other"}}
	if value, found := event.Header("TENANT"); value != "acme" || !found {
		t.Error(value)
	}
	if _, found := event.Header("none"); found || event.IsLastAttempt() {
		t.Error("found what is not there")
	}
	event.Attempt = 5
	if !event.IsLastAttempt() {
		t.Error("the last attempt does not know it")
	}
}

func TestSettings(t *testing.T) {
	SetConfig(map[string]string{"from": "a"})
	if value, err := RequireConfig("from"); value != "a" || err != nil {
		t.Error(value, err)
	}
	if _, err := RequireConfig("to"); err == nil {
		t.Error("a setting that is missing was found")
	}
}
