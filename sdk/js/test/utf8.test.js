// UTF-8 as the kit has it against that of Node.js.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Decoder, Encoder } from '../src/globals.js';
import { decode, decodeLossy, encode } from '../src/utf8.js';

const TEXTS = ['', 'abc', '100 %', '%41', 'Grüße, 100 %', '日本', '🌊', 'x'.repeat(100000) + 'ä', '\0\x7f\x80\u07ff\u0800\uffff'];

test('text survives the way there and back', () => {
  for (const text of TEXTS) {
    assert.deepEqual(encode(text), new Uint8Array(new TextEncoder().encode(text)));
    assert.equal(decode(encode(text)), text);
  }
});

test('part of a buffer is read', () => {
  assert.equal(decode(encode('abcd').subarray(1, 3)), 'bc');
});

test('bytes that are not UTF-8 are refused', () => {
  for (const bytes of [[0x61, 0xff], [0xc3], [0xed, 0xa0, 0x80], [0xc0, 0x80], [0xf4, 0x90, 0x80, 0x80]]) {
    assert.throws(() => decode(Uint8Array.from(bytes)), URIError, String(bytes));
  }
});

test('half a surrogate pair is replaced', () => {
  assert.equal(decode(encode('a\ud800')), 'a\ufffd');
});

test('what is not UTF-8 is replaced as everywhere', () => {
  const theirs = new TextDecoder('utf-8', { ignoreBOM: true });
  let state = 7;
  const next = (max) => (state = (state * 48271) % 2147483647) % max;
  const odd = [0x61, 0x80, 0xbf, 0xc2, 0xc3, 0xe0, 0xa0, 0xed, 0x9f, 0xef, 0xf0, 0x90, 0xf4, 0x8f, 0xff];
  for (let round = 0; round < 20000; round += 1) {
    const bytes = Uint8Array.from({ length: next(8) }, () => odd[next(odd.length)]);
    assert.equal(decodeLossy(bytes), theirs.decode(bytes), String(bytes));
  }
});

test('libraries find what they expect', () => {
  assert.deepEqual(new Encoder().encode('ä'), Uint8Array.of(0xc3, 0xa4));
  assert.equal(new Decoder().decode(Uint8Array.of(0xef, 0xbb, 0xbf, 0x61).buffer), 'a');
  assert.equal(new Decoder('utf8', { ignoreBOM: true }).decode(Uint8Array.of(0xef, 0xbb, 0xbf)), '\ufeff');
  assert.equal(new Decoder().decode(Uint8Array.of(0xff)), '\ufffd');
  assert.throws(() => new Decoder('utf-8', { fatal: true }).decode(Uint8Array.of(0xff)), TypeError);
  assert.throws(() => new Decoder('latin1'), RangeError);
});
