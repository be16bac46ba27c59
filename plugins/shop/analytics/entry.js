// What a fact adds to the figures: a pure function, so that it can be tested without a host.

import { Reject } from './tidemill/index.js';

/**
 * The entry for a fact: one for each order and subject, so that a repeat puts the same value in the same place.
 * @param {import('./tidemill/index.js').Event} event
 * @returns {{ key: string, value: string }}
 */
export function entryOf(event) {
  const { order_id: id, cents = 1 } = event.json() ?? {}; // no JSON: rejected
  if (typeof id !== 'string' || !/^[-\w]+$/.test(id)) {
    throw new Reject(`order_id must be of letters, digits, - and _, not ${JSON.stringify(id)}`);
  }
  if (!Number.isSafeInteger(cents)) throw new Reject(`cents must be a whole number, not ${JSON.stringify(cents)}`);
  return { key: `orders.${id}.${event.subject.replaceAll('.', '_')}`, value: String(cents) };
}
