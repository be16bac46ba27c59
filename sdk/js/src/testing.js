// What unit tests of a handler need: an event to begin with, and settings.

import { Event } from './event.js';
import { connect } from './host.js';
import { decode, encode } from './utf8.js';

/**
 * A first attempt of five at an event. A payload that is neither bytes nor text is written as JSON.
 * @param {string} subject
 * @param {unknown} payload
 * @param {Partial<import('./event.js').Received>} [changes] What is to be different from the usual.
 * @returns {Event}
 */
export function event(subject, payload, changes) {
  const text = typeof payload === 'string' ? payload : JSON.stringify(payload);
  return new Event({
    id: 'event-1',
    subject,
    correlationId: 'event-1',
    attempt: 1,
    maxAttempts: 5,
    headers: [],
    payload: payload instanceof Uint8Array ? payload : encode(text),
    ...changes,
  });
}

/**
 * Replaces all settings that `config` sees.
 * @param {Record<string, string>} settings
 */
export function setConfig(settings) {
  connect({ get: (key) => settings[key] });
}

/**
 * The value that an output's payload holds as JSON.
 * @param {import('./output.js').Output} output
 * @returns {any}
 */
export function jsonOf(output) {
  return JSON.parse(decode(output.payload));
}
