// Run with `node --test` in this folder.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { handler } from './handler.js';

test('copies', () => {
  const [output] = handler.handle({ payload: Uint8Array.of(1, 2) });
  assert.deepEqual(output.payload, Uint8Array.of(1, 2));
});
