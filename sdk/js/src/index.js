// What handlers import. Everything here runs in Node.js as well, for unit tests.

export { Event } from './event.js';
export { bytes, json } from './output.js';
export { Reject, Retry } from './failure.js';
export { config, log } from './host.js';
export { decode, encode } from './utf8.js';

/** @typedef {import('./output.js').Output} Output */
/** @typedef {import('./output.js').Outputs} Outputs */
/** @typedef {import('./serve.js').Handler} Handler */
