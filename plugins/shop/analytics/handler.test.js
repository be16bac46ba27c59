// Run by `cargo xtask test`, in a project that has the kit.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { entryOf } from './entry.js';
import { Reject } from './tidemill/index.js';
import { event } from './tidemill/testing.js';

test('each fact has an entry of its own', () => {
  for (const [subject, payload, key, value] of [
    ['payment.captured', { order_id: 'o-0001', cents: 1800 }, 'orders.o-0001.payment_captured', '1800'],
    ['payment.refunded', { order_id: 'o-0001', cents: 0 }, 'orders.o-0001.payment_refunded', '0'],
    ['payment.failed', { order_id: 'o-0002', total_cents: 1800 }, 'orders.o-0002.payment_failed', '1'],
    ['stock.reserved', { order_id: 'o-0003', items: [] }, 'orders.o-0003.stock_reserved', '1'],
  ]) {
    assert.deepEqual(entryOf(event(subject, payload)), { key, value });
  }
});

test('what has no place among the figures is rejected', () => {
  for (const bad of [
    'no JSON',
    null,
    [],
    {},
    { order_id: '' },
    { order_id: 7 },
    { order_id: 'o.1' },
    { order_id: 'o-1', cents: '1800' },
    { order_id: 'o-1', cents: 18.5 },
    { order_id: 'o-1', cents: null },
  ]) {
    assert.throws(() => entryOf(event('payment.captured', bad)), Reject, JSON.stringify(bad));
  }
});
