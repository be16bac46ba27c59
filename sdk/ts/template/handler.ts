// Works out what an order comes to.

import { type Event, json, log, type Output, Reject } from './tidemill/index.js';

/** What is read of an order; whether it is there is checked below. */
interface Order {
  order_id?: string;
  quantity?: number;
  unit_price_cents?: number;
}

export default function handle(event: Event): Output {
  const order = event.json<Order>(); // no JSON: rejected
  const total = wholeNumber('quantity', order.quantity) * wholeNumber('unit_price_cents', order.unit_price_cents);
  log.info(`order ${order.order_id} comes to ${total} cents`);
  return json('order.totalled', { order_id: order.order_id, total_cents: total }, { kind: 'order.totalled' });
}

function wholeNumber(name: string, value: number | undefined): number {
  if (value === undefined || !Number.isSafeInteger(value) || value < 1) {
    throw new Reject(`${name} must be a whole number of at least 1, not ${value}`, { code: 422 });
  }
  return value;
}
