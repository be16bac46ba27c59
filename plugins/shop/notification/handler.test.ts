// Run by `cargo xtask test`, in a project that has the kit.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Reject } from './tidemill/index.js';
import { event, jsonOf } from './tidemill/testing.js';
import handle from './handler.js';

const customer = { id: 'c-001', name: 'Zoë', email: 'zoe@example.org' };
const fact = { order_id: 'o-0001', customer, cents: 1805, reason: 'so it is' };

test('each fact has a sentence of its own', () => {
  for (const [subject, text] of [
    ['order.refused', 'Dear Zoë, we cannot take your order o-0001: so it is.'],
    ['payment.captured', 'Dear Zoë, thank you for the 18.05 € for your order o-0001.'],
    ['payment.failed', 'Dear Zoë, we could not take the payment for your order o-0001: so it is.'],
    ['payment.refunded', 'Dear Zoë, you get 18.05 € back for your order o-0001: so it is.'],
  ] as const) {
    const output = handle(event(subject, fact));
    assert.deepEqual([output.subject, output.kind], ['notification.sent', 'notification.sent']);
    assert.deepEqual(jsonOf(output), { order_id: 'o-0001', to: 'zoe@example.org', text });
  }
});

test('a fact that lacks what the sentence takes is rejected', () => {
  for (const [subject, bad] of [
    ['order.refused', { ...fact, reason: undefined }],
    ['payment.captured', { ...fact, cents: '1805' }],
    ['payment.refunded', { ...fact, cents: 18.05 }],
    ['payment.failed', { ...fact, order_id: 7 }],
    ['payment.failed', { ...fact, customer: { name: 'Zoë' } }],
    ['payment.failed', null],
    ['payment.failed', []],
    ['order.placed', fact],
  ] as const) {
    assert.throws(() => handle(event(subject, bad)), Reject, `${subject} ${JSON.stringify(bad)}`);
  }
});
