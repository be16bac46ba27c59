// Run with `node --test` in this folder.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { award, Busy, Malformed } from './award.js';
import { decode, encode } from './utf8.js';

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
    assert.throws(() => award(bad, event), Malformed);
  }
});

test('a busy system is tried again', () => {
  const busy = { ...order, order_id: 'o-1-busy2' };
  assert.throws(() => award(busy, { ...event, attempt: 2 }), Busy);
  assert.equal(award(busy, { ...event, attempt: 3 }).points, 17);
});

test('a wrong setting is tried again', () => {
  assert.throws(() => award(order, event, 'many'), Busy);
});

test('text survives the way there and back', () => {
  for (const text of ['', 'abc', '100 %', 'Grüße, 100 %', '日本', '🌊', 'x'.repeat(10000) + 'ä']) {
    assert.deepEqual(encode(text), new Uint8Array(new TextEncoder().encode(text)));
    assert.equal(decode(encode(text)), text);
  }
});

test('bytes that are not UTF-8 are refused', () => {
  assert.throws(() => decode(Uint8Array.of(0x61, 0xff)), URIError);
});

test('half a surrogate pair is replaced', () => {
  assert.equal(decode(encode('a\ud800')), 'a\ufffd');
});
