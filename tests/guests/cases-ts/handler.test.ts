import assert from 'node:assert/strict';
import { test } from 'node:test';
import { event } from './tidemill/testing.js';
import handle from './handler.js';

test('what is not known is rejected', () => {
  assert.throws(() => handle(event('in.case', { do: 'dance' })), /unknown: dance/);
});
