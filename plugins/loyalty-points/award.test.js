// Run by `cargo xtask test`, with the kit beside it.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { award } from './award.js';
import { Reject, Retry } from './tidemill/index.js';

const order = { order_id: 'o-1', customer_id: 'c-1', total_cents: 1799 };
const event = { id: 'event-1', attempt: 1 };

test('a full euro is a point', () => {
  assert.deepEqual(award(order, event), {
    award_id: 'award-event-1',
    order_id: 'o-1',
    customer_id: 'c-1',
    points: 17,
  });
  assert.equal(award(order, event, '3').points, 51);
});

test('malformed orders are rejected', () => {
  for (const bad of [
    null,
    [],
    'order',
    { ...order, order_id: '' },
    { ...order, customer_id: 7 },
    { ...order, total_cents: -1 },
    { ...order, total_cents: 1.5 },
    { ...order, total_cents: '1799' },
  ]) {
    assert.throws(() => award(bad, event), Reject);
  }
});

test('a busy system is tried again', () => {
  const busy = { ...order, order_id: 'o-1-busy2' };
  assert.throws(() => award(busy, { ...event, attempt: 2 }), Retry);
  assert.equal(award(busy, { ...event, attempt: 3 }).points, 17);
});

test('a wrong setting is tried again', () => {
  assert.throws(() => award(order, event, 'many'), Retry);
});
