// Reserves what was ordered, and releases it where the payment fails.
//
// The stock is make-believe: there are as many pieces of everything as the setting max_quantity says, for each order
// anew. So an order tells whether there was enough for it, and the handler keeps nothing.
package main

import (
	"strconv"

	"inventory/tidemill"
)

func main() {} // nothing: the host calls the handler

func init() { tidemill.Handle(handle) }

// An Order that was accepted.
type Order struct {
	OrderID string `json:"order_id"`
	Items   []Item `json:"items"`
	Reason  string `json:"reason"` // of a payment that failed
}

// An Item of an order.
type Item struct {
	SKU        string `json:"sku"`
	Quantity   int64  `json:"quantity"`
	PriceCents int64  `json:"price_cents"`
}

// A Reservation that was made, or is given up for a reason.
type Reservation struct {
	OrderID string `json:"order_id"`
	Items   []Item `json:"items"`
	Reason  string `json:"reason,omitempty"`
}

func handle(event tidemill.Event) ([]tidemill.Output, error) {
	var order Order
	if err := event.JSON(&order); err != nil {
		return nil, err // not JSON: rejected
	}
	if order.OrderID == "" || len(order.Items) == 0 {
		return nil, tidemill.Reject("%s without an order_id or items", event.Subject)
	}
	inStock, err := maxQuantity()
	if err != nil {
		return nil, err
	}
	short := shortItem(order.Items, inStock)
	switch {
	case event.Subject == "order.accepted" && short != nil:
		return shortage(event, *short, inStock)
	case event.Subject == "order.accepted":
		return fact("stock.reserved", Reservation{OrderID: order.OrderID, Items: order.Items})
	case event.Subject == "payment.failed" && short != nil:
		return nil, nil // nothing was reserved
	case event.Subject == "payment.failed":
		return fact("stock.released", Reservation(order))
	}
	return nil, tidemill.Reject("%s is no subject of the inventory", event.Subject)
}

func maxQuantity() (int64, error) {
	text, err := tidemill.RequireConfig("max_quantity")
	if err != nil {
		return 0, err
	}
	quantity, err := strconv.ParseInt(text, 10, 64)
	if err != nil { // an operator can mend it before the attempts are used up
		return 0, tidemill.Retry("the setting max_quantity is %q, which is no whole number", text)
	}
	return quantity, nil
}

// shortItem is the first item of which there is not enough, or nil.
func shortItem(items []Item, inStock int64) *Item {
	for i := range items {
		if items[i].Quantity > inStock {
			return &items[i]
		}
	}
	return nil
}

// shortage is the order as it is, with what it lacks.
func shortage(event tidemill.Event, item Item, inStock int64) ([]tidemill.Output, error) {
	short := map[string]any{}
	if err := event.JSON(&short); err != nil {
		return nil, err
	}
	short["sku"], short["wanted"], short["available"] = item.SKU, item.Quantity, inStock
	tidemill.Log(tidemill.Warn, "%d of %s are wanted, there are %d", item.Quantity, item.SKU, inStock)
	return fact("stock.short", short)
}

func fact(subject string, value any) ([]tidemill.Output, error) {
	output, err := tidemill.JSON(subject, value)
	output.Kind = subject
	return []tidemill.Output{output}, err
}
