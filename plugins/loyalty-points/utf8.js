// UTF-8 for QuickJS, which has neither TextDecoder nor TextEncoder.

/** How many characters are made of codes in one call; far below what an argument list may hold. */
const CHUNK = 4096;

/** Turns bytes into text; throws where they are not UTF-8. */
export function decode(bytes) {
  let text = '';
  for (let start = 0; start < bytes.length; start += CHUNK) {
    text += String.fromCharCode.apply(null, bytes.subarray(start, start + CHUNK));
  }
  // Each character of `text` is one byte. ASCII, the common case, is done already.
  if (!/[^\0-\x7f]/.test(text)) return text;
  const escaped = text.replace(/[%\x80-\xff]/g, (byte) => `%${byte.charCodeAt(0).toString(16)}`);
  return decodeURIComponent(escaped);
}

/** Turns text into bytes; half of a surrogate pair becomes U+FFFD. */
export function encode(text) {
  const bytes = [];
  for (const character of text) {
    let code = character.codePointAt(0);
    if (code >= 0xd800 && code <= 0xdfff) code = 0xfffd;
    if (code < 0x80) {
      bytes.push(code);
    } else if (code < 0x800) {
      bytes.push(0xc0 | (code >> 6), continuation(code));
    } else if (code < 0x10000) {
      bytes.push(0xe0 | (code >> 12), continuation(code >> 6), continuation(code));
    } else {
      bytes.push(0xf0 | (code >> 18), continuation(code >> 12), continuation(code >> 6), continuation(code));
    }
  }
  return Uint8Array.from(bytes);
}

function continuation(code) {
  return 0x80 | (code & 0x3f);
}
