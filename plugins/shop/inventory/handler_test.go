// Run by `cargo xtask test`, in a project that has the kit.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"testing"

	"inventory/tidemill"
)

// order is one of as many mugs, with what was added to it.
func order(mugs int, added string) string {
	return fmt.Sprintf(`{"order_id": "o-1", "customer": {"name": "Zoë"}, "items": [
		{"sku": "tea", "quantity": 1, "price_cents": 450},
		{"sku": "mug", "quantity": %d, "price_cents": 900}
	], "card": "visa-4242", "total_cents": 1800%s}`, mugs, added)
}

func decoded(t *testing.T, text string) (value any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &value); err != nil {
		t.Fatal(err, text)
	}
	return value
}

func TestWhatBecomesOfTheStock(t *testing.T) {
	tidemill.SetConfig(map[string]string{"max_quantity": "20"})
	items := `[{"sku": "tea", "quantity": 1, "price_cents": 450}, {"sku": "mug", "quantity": 20, "price_cents": 900}]`
	for _, row := range []struct{ subject, payload, published, expected string }{
		{"order.accepted", order(20, ""), "stock.reserved", `{"order_id": "o-1", "items": ` + items + `}`},
		{"order.accepted", order(21, ""), "stock.short", order(21, `, "sku": "mug", "wanted": 21, "available": 20`)},
		{"payment.failed", order(20, `, "reason": "declined"`), "stock.released",
			`{"order_id": "o-1", "items": ` + items + `, "reason": "declined"}`},
		{"payment.failed", order(21, `, "reason": "declined"`), "", ""},
	} {
		outputs, err := handle(tidemill.TestEvent(row.subject, row.payload))
		if err != nil {
			t.Fatal(row.subject, err)
		}
		if row.published == "" {
			if len(outputs) != 0 {
				t.Error(row.subject, outputs)
			}
			continue
		}
		if len(outputs) != 1 || outputs[0].Subject != row.published || outputs[0].Kind != row.published {
			t.Fatal(row.subject, outputs)
		}
		got := decoded(t, string(outputs[0].Payload))
		if !reflect.DeepEqual(got, decoded(t, row.expected)) {
			t.Errorf("%s: %s", row.published, outputs[0].Payload)
		}
	}
}

func TestWhatIsNoOrderIsRejected(t *testing.T) {
	tidemill.SetConfig(map[string]string{"max_quantity": "20"})
	for _, row := range [][2]string{
		{"order.accepted", ""},
		{"order.accepted", "{}"},
		{"order.accepted", `{"order_id": "o-1", "items": []}`},
		{"order.accepted", `{"order_id": "o-1", "items": [{"sku": "mug", "quantity": "2"}]}`},
		{"order.placed", order(1, "")},
	} {
		_, err := handle(tidemill.TestEvent(row[0], row[1]))
		var failure *tidemill.Failure
		if !errors.As(err, &failure) || !failure.Rejected {
			t.Error(row, err)
		}
	}
}

func TestASettingThatIsMissingOrNoNumberCanBeMended(t *testing.T) {
	for _, settings := range []map[string]string{{}, {"max_quantity": "many"}} {
		tidemill.SetConfig(settings)
		_, err := handle(tidemill.TestEvent("order.accepted", order(1, "")))
		var failure *tidemill.Failure
		if !errors.As(err, &failure) || failure.Rejected {
			t.Error(settings, err)
		}
	}
}
