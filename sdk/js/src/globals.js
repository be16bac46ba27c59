// What libraries expect to find everywhere and QuickJS does not have: a console, TextEncoder and TextDecoder.

import { log } from './host.js';
import { decode, decodeLossy, encode } from './utf8.js';

class Encoder {
  encoding = 'utf-8';

  /** @param {string} [text] */
  encode(text = '') {
    return encode(String(text));
  }
}

class Decoder {
  encoding = 'utf-8';

  /** @param {string} [label] @param {{ fatal?: boolean, ignoreBOM?: boolean }} [options] */
  constructor(label = 'utf-8', { fatal = false, ignoreBOM = false } = {}) {
    if (!/^\s*(utf-8|utf8|unicode-1-1-utf-8)\s*$/i.test(label)) throw new RangeError(`${label} is not supported; use utf-8`);
    this.fatal = fatal;
    this.ignoreBOM = ignoreBOM;
  }

  /** @param {ArrayBuffer | ArrayBufferView} [source] */
  decode(source = new Uint8Array()) {
    const bytes = ArrayBuffer.isView(source)
      ? new Uint8Array(source.buffer, source.byteOffset, source.byteLength)
      : new Uint8Array(source);
    const text = this.fatal ? strict(bytes) : decodeLossy(bytes);
    return this.ignoreBOM || !text.startsWith('\ufeff') ? text : text.slice(1);
  }
}

/** @param {Uint8Array} bytes */
function strict(bytes) {
  try {
    return decode(bytes);
  } catch {
    throw new TypeError('the bytes are not UTF-8');
  }
}

/** @type {Record<string, unknown>} */
const missing = {
  console: { trace: log.trace, debug: log.debug, log: log.info, info: log.info, warn: log.warn, error: log.error },
  TextEncoder: Encoder,
  TextDecoder: Decoder,
};
for (const [name, value] of Object.entries(missing)) {
  if (!(name in globalThis)) Object.defineProperty(globalThis, name, { value, writable: true, configurable: true });
}

export { Decoder, Encoder };
