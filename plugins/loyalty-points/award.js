// What an order earns: a pure function, so that it can be tested without a host.

import { Reject, Retry } from './tidemill/index.js';

/** Points for each full euro where the operator sets no other rate. */
const POINTS_PER_EURO = 1;

/**
 * Computes the points for a priced order. An order id that ends in `-busy<N>` is refused for the first N
 * attempts, as a loyalty system with too much to do would.
 */
export function award(order, { id, attempt }, rate) {
  const { order_id: orderId, customer_id: customerId, total_cents: totalCents } = checked(order);
  const busy = /-busy(\d+)$/.exec(orderId);
  if (busy && attempt <= Number(busy[1])) {
    throw new Retry('the loyalty system is busy', { code: 503, afterMs: 200 });
  }
  const points = Math.floor(totalCents / 100) * pointsPerEuro(rate);
  return { award_id: `award-${id}`, order_id: orderId, customer_id: customerId, points };
}

function checked(order) {
  if (typeof order !== 'object' || order === null || Array.isArray(order)) {
    throw new Reject('the payload is not a JSON object');
  }
  for (const name of ['order_id', 'customer_id']) {
    if (typeof order[name] !== 'string' || order[name] === '') {
      throw new Reject(`${name} must be a text that is not empty`);
    }
  }
  if (!Number.isSafeInteger(order.total_cents) || order.total_cents < 0) {
    throw new Reject('total_cents must be a whole number of at least 0');
  }
  return order;
}

function pointsPerEuro(rate) {
  if (rate === undefined || rate === null) return POINTS_PER_EURO;
  const points = Number(rate);
  if (!Number.isSafeInteger(points) || points < 0) {
    throw new Retry(`the setting points_per_euro is ${rate}, which is no whole number`);
  }
  return points;
}
