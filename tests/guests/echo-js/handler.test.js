import assert from 'node:assert/strict';
import { test } from 'node:test';
import { event } from './tidemill/testing.js';
import handle from './handler.js';

test('copies', () => {
  assert.deepEqual(handle(event('a', Uint8Array.of(1, 2))).payload, Uint8Array.of(1, 2));
});
