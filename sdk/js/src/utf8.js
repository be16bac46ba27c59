// UTF-8. QuickJS has neither TextDecoder nor TextEncoder, but functions that, put together, do their work without a loop
// in JavaScript: 64 KiB take some hundred microseconds instead of milliseconds.

/** A character that is more than one byte. */
const NOT_ASCII = /[^\0-\x7f]/;

/**
 * One or more whole characters, or else as many bytes as one U+FFFD stands for, in a text of one character for each byte.
 */
const CHARACTERS =
  /((?:[\0-\x7f]|[\xc2-\xdf][\x80-\xbf]|\xe0[\xa0-\xbf][\x80-\xbf]|[\xe1-\xec\xee\xef][\x80-\xbf]{2}|\xed[\x80-\x9f][\x80-\xbf]|\xf0[\x90-\xbf][\x80-\xbf]{2}|[\xf1-\xf3][\x80-\xbf]{3}|\xf4[\x80-\x8f][\x80-\xbf]{2})+)|\xe0[\xa0-\xbf]|[\xe1-\xec\xee\xef][\x80-\xbf]|\xed[\x80-\x9f]|\xf0[\x90-\xbf][\x80-\xbf]?|[\xf1-\xf3][\x80-\xbf]{1,2}|\xf4[\x80-\x8f][\x80-\xbf]?|[\x80-\xff]/g;

/**
 * Turns bytes into text.
 * @param {Uint8Array} bytes
 * @returns {string}
 * @throws {URIError} If they are not UTF-8.
 */
export function decode(bytes) {
  const text = latin1(bytes);
  return NOT_ASCII.test(text) ? decodeURIComponent(escape(text)) : text;
}

/**
 * Turns bytes into text, with U+FFFD for what is not UTF-8.
 * @param {Uint8Array} bytes
 * @returns {string}
 */
export function decodeLossy(bytes) {
  try {
    return decode(bytes);
  } catch {
    return latin1(bytes).replace(CHARACTERS, (_, whole) => (whole ? decodeURIComponent(escape(whole)) : '\ufffd'));
  }
}

/**
 * Turns text into bytes; half of a surrogate pair becomes U+FFFD.
 * @param {string} text
 * @returns {Uint8Array}
 */
export function encode(text) {
  return fromLatin1(NOT_ASCII.test(text) ? unescape(encodeURIComponent(text.toWellFormed())) : text);
}

/**
 * A text with one character for each byte.
 * @type {(bytes: Uint8Array) => string}
 */
// @ts-ignore: newer than what types and Node.js 20 know.
const latin1 = 'toBase64' in Uint8Array.prototype ? (bytes) => atob(bytes.toBase64()) : nodeLatin1;

/** @type {(text: string) => Uint8Array} */
// @ts-ignore
const fromLatin1 = 'fromBase64' in Uint8Array ? (text) => Uint8Array.fromBase64(btoa(text)) : nodeFromLatin1;

/** @param {Uint8Array} bytes */
function nodeLatin1(bytes) {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('latin1');
}

/** @param {string} text */
function nodeFromLatin1(text) {
  return new Uint8Array(Buffer.from(text, 'latin1'));
}
