// Works out what an order comes to.

import { json, log, Reject } from './tidemill/index.js';

/** @param {import('./tidemill/index.js').Event} event */
export default function handle(event) {
  const order = event.json(); // no JSON: rejected
  const total = totalOf(order);
  log.info(`order ${order.order_id} comes to ${total} cents`);
  return json('order.totalled', { order_id: order.order_id, total_cents: total }, { kind: 'order.totalled' });
}

function totalOf({ quantity, unit_price_cents: price }) {
  for (const [name, value] of Object.entries({ quantity, unit_price_cents: price })) {
    if (!Number.isSafeInteger(value) || value < 1) {
      throw new Reject(`${name} must be a whole number of at least 1, not ${value}`, { code: 422 });
    }
  }
  return quantity * price;
}
