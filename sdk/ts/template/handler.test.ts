// Run with `npm test`.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Reject } from './tidemill/index.js';
import { event, jsonOf } from './tidemill/testing.js';
import handle from './handler.js';

test('an order comes to its quantity times the price', () => {
  const output = handle(event('order.placed', { order_id: 'o-1', quantity: 3, unit_price_cents: 450 }));
  assert.deepEqual([output.subject, jsonOf(output)], ['order.totalled', { order_id: 'o-1', total_cents: 1350 }]);
});

test('an order without a quantity is rejected', () => {
  assert.throws(() => handle(event('order.placed', { order_id: 'o-2', unit_price_cents: 450 })), Reject);
});
