// Run with `node --test` in the folder above.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { bytes, config, json, log, Reject, Retry } from '../src/index.js';
import { connect } from '../src/host.js';
import { serve } from '../src/serve.js';
import { event, jsonOf, setConfig } from '../src/testing.js';

const thrown = (handle) => {
  try {
    serve(handle)(event('a', '{}'));
  } catch (failure) {
    return failure;
  }
  return assert.fail('nothing was thrown');
};

test('an event is read as text and JSON', () => {
  assert.equal(event('a', 'Grüße').text(), 'Grüße');
  assert.deepEqual(event('a', { n: 1 }).json(), { n: 1 });
});

test('what is no JSON or no text is rejected', () => {
  for (const [payload, message] of [
    ['{"n":', /^the payload is not JSON: /],
    ['', /^the payload is not JSON: /],
    [Uint8Array.of(0x61, 0xff), /^the payload is not UTF-8 text$/],
  ]) {
    assert.throws(() => event('a', payload).json(), (error) => error instanceof Reject && message.test(error.message));
  }
});

test('headers are found whatever their case', () => {
  const found = event('a', '', { headers: [['Tenant', 'acme'], ['tenant', 'other']] });
  assert.equal(found.header('TENANT'), 'acme');
  assert.equal(found.header('none'), undefined);
});

test('the last attempt knows it', () => {
  assert.equal(event('a', '', { attempt: 2, maxAttempts: 3 }).isLastAttempt(), false);
  assert.equal(event('a', '', { attempt: 3, maxAttempts: 3 }).isLastAttempt(), true);
});

test('what the host leaves out is null, and its times are numbers', () => {
  assert.equal(event('a', '', { kind: undefined }).kind, null);
  assert.equal(event('a', '', { timeMs: 1700000000000n }).timeMs, 1700000000000);
  assert.equal(event('a', '').timeMs, null);
});

test('outputs hold JSON, text or bytes', () => {
  const output = json('a.b', { n: 1 }, { kind: 'b', headers: { tenant: 'acme' } });
  assert.deepEqual([output.kind, output.contentType, output.headers], ['b', 'application/json', [['tenant', 'acme']]]);
  assert.deepEqual(jsonOf(output), { n: 1 });
  assert.deepEqual(bytes('a', 'hi').payload, Uint8Array.of(104, 105));
  assert.deepEqual(bytes('a', Uint8Array.of(1), { headers: [['x', '1'], ['x', '2']] }).headers.length, 2);
  assert.throws(() => json('a', undefined), TypeError);
});

test('every number of outputs can be returned', () => {
  const call = (returned) => serve(() => returned)(event('a', '{}')).length;
  assert.deepEqual([undefined, null, [], bytes('a', ''), [bytes('a', ''), bytes('b', '')]].map(call), [0, 0, 0, 1, 2]);
});

test('what is thrown becomes the failure', () => {
  assert.deepEqual(
    thrown(() => {
      throw new Retry('busy', { code: 503, afterMs: 250 });
    }),
    { tag: 'retry', val: [{ code: 503, message: 'busy', detail: undefined }, 250] },
  );
  assert.deepEqual(
    thrown(() => {
      throw new Reject('no good', { code: 422, detail: 'because' });
    }),
    { tag: 'reject', val: { code: 422, message: 'no good', detail: 'because' } },
  );
});

test('a fault of the program is a failed attempt with its stack', () => {
  const { tag, val } = thrown(function innerOfTheTest() {
    return null.nothing;
  });
  assert.equal(tag, 'retry');
  assert.match(val[0].message, /^TypeError: /);
  assert.match(val[0].detail, /innerOfTheTest/);
  assert.equal(thrown(() => { throw 'words'; }).val[0].message, 'threw words');
});

test('a handler that is async is refused', () => {
  assert.match(thrown(async () => []).val[0].message, /must not be async/);
});

test('settings are those of the test', () => {
  setConfig({ from: 'hello@example.org' });
  assert.equal(config.get('from'), 'hello@example.org');
  assert.equal(config.get('to'), undefined);
  assert.throws(() => config.require('to'), Retry);
});

test('log lines show values', () => {
  const lines = [];
  connect({ log: (...line) => lines.push(line) });
  log.warn('order', { id: 1 }, 7, undefined);
  const round = {};
  round.self = round;
  log.info(round);
  assert.deepEqual(lines, [['warn', 'handler', 'order {"id":1} 7 undefined'], ['info', 'handler', '[object Object]']]);
});
