// The messages that a handler wants published.

import { encode } from './utf8.js';

/**
 * A message to be published. It takes effect only if the handler returns it.
 * @typedef {object} Output
 * @property {string} subject Where to publish; the handler must be granted the subject (`allow.publish`).
 * @property {string} [kind] What kind of event it is. If set, the message is published as a CloudEvent.
 * @property {string} [contentType] The media type of the payload.
 * @property {[string, string][]} headers Additional headers. Those of the broker and the host are dropped.
 * @property {Uint8Array} payload The message's data.
 */

/** @typedef {Output | Output[] | null | undefined | void} Outputs What a handler may return when it succeeds. */

/**
 * What may be said of an output besides subject and payload.
 * @typedef {object} Options
 * @property {string} [kind] What kind of event it is. If set, the message is published as a CloudEvent.
 * @property {string} [contentType] The media type of the payload.
 * @property {Record<string, string> | [string, string][]} [headers] Additional headers.
 */

/**
 * An output with a JSON payload.
 * @param {string} subject
 * @param {unknown} value
 * @param {Options} [options]
 * @returns {Output}
 */
export function json(subject, value, options) {
  const text = JSON.stringify(value);
  if (text === undefined) throw new TypeError(`an output on ${subject} has no JSON form: ${typeof value}`);
  return bytes(subject, encode(text), { contentType: 'application/json', ...options });
}

/**
 * An output with a payload of bytes, or of text.
 * @param {string} subject
 * @param {Uint8Array | string} payload
 * @param {Options} [options]
 * @returns {Output}
 */
export function bytes(subject, payload, { kind, contentType, headers = [] } = {}) {
  return {
    subject,
    kind,
    contentType,
    headers: Array.isArray(headers) ? headers : Object.entries(headers),
    payload: typeof payload === 'string' ? encode(payload) : payload,
  };
}
