// Keeps the figures of the shop: for each fact of interest an entry with its amount in cents, or 1 where there is none.

import { open } from 'wasi:keyvalue/store@0.2.0-draft2';
import { encode, Retry } from './tidemill/index.js';
import { entryOf } from './entry.js';

const BUCKET = 'shop_analytics';

/** @param {import('./tidemill/index.js').Event} event */
export default function handle(event) {
  const { key, value } = entryOf(event);
  try {
    open(BUCKET).set(key, encode(value));
  } catch (error) {
    // A bucket or a grant can be added before the attempts are used up.
    throw new Retry(`${key} = ${value} is not written to ${BUCKET}`, { detail: JSON.stringify(error.payload ?? String(error)) });
  }
}
