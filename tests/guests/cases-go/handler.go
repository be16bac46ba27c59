// The conformance guest: see tests/integration/languages.rs for what it must do.
package main

import (
	"fmt"
	"time"
	"unicode/utf8"

	"cases-go/tidemill"
)

func main() {}

func init() { tidemill.Handle(handle) }

// The request that an event's payload holds.
type request struct {
	Do    *string `json:"do"`
	Count int     `json:"count"`
	Text  string  `json:"text"`
	Key   string  `json:"key"`
}

func handle(event tidemill.Event) ([]tidemill.Output, error) {
	if len(event.Payload) == 0 {
		return one(map[string]any{"empty": true})
	}
	var asked request
	if err := event.JSON(&asked); err != nil {
		return nil, err
	}
	if asked.Do == nil {
		return nil, tidemill.Reject("the payload is no JSON object with a text %q", "do")
	}
	switch *asked.Do {
	case "echo":
		return []tidemill.Output{{
			Subject: "out.case", Kind: "case.echoed", ContentType: "application/json", Payload: event.Payload,
			Headers: []tidemill.Header{{Name: "x-case", Value: "echo"}},
		}}, nil
	case "many":
		return many(asked.Count)
	case "retry":
		return nil, tidemill.Retry("busy").WithCode(503).WithDelay(250 * time.Millisecond)
	case "reject":
		return nil, tidemill.Reject("no good").WithCode(422).WithDetail("because")
	case "describe":
		return describe(event)
	case "text":
		return one(map[string]any{"text": asked.Text, "length": utf8.RuneCountInString(asked.Text)})
	case "config":
		if value, found := tidemill.Config(asked.Key); found {
			return one(map[string]any{"value": value})
		}
		return one(map[string]any{"value": nil})
	case "log":
		tidemill.Log(tidemill.Info, "%s", asked.Text)
		fmt.Println("printed", asked.Text)
		return nil, nil
	case "panic":
		return innerOfTheCase()
	case "loop":
		for {
		}
	case "hog":
		hog()
	}
	return nil, tidemill.Reject("unknown: %s", *asked.Do)
}

func one(value any) ([]tidemill.Output, error) {
	output, err := tidemill.JSON("out.case", value)
	return []tidemill.Output{output}, err
}

func many(count int) ([]tidemill.Output, error) {
	var outputs []tidemill.Output
	for index := range count {
		output, err := tidemill.JSON("out.case", map[string]int{"index": index})
		if err != nil {
			return nil, err
		}
		outputs = append(outputs, output)
	}
	return outputs, nil
}

func describe(event tidemill.Event) ([]tidemill.Output, error) {
	headers := [][2]string{}
	for _, header := range event.Headers {
		headers = append(headers, [2]string{header.Name, header.Value})
	}
	return one(map[string]any{
		"id": event.ID, "subject": event.Subject, "attempt": event.Attempt, "correlation": event.CorrelationID,
		"headers": headers, "size": len(event.Payload),
	})
}

//go:noinline
func innerOfTheCase() ([]tidemill.Output, error) { panic("asked to panic") }

var hoard [][]byte

func hog() {
	for {
		block := make([]byte, 64<<10)
		for i := range block {
			block[i] = 1
		}
		hoard = append(hoard, block)
	}
}
