// From the host's call to the handler's function and back.

import { Event } from './event.js';
import { Reject, Retry } from './failure.js';

/** @typedef {(event: Event) => import('./output.js').Outputs} Handler */

/** @typedef {{ code?: number, message: string, detail?: string }} Told */
/** @typedef {{ tag: 'retry', val: [Told, number | undefined] } | { tag: 'reject', val: Told }} Failure */

/**
 * Makes what the host calls of a handler's function. A returned value is `ok`, a thrown one is the failure.
 * @param {Handler} handle
 * @returns {(received: import('./event.js').Received) => import('./output.js').Output[]}
 */
export function serve(handle) {
  return (received) => {
    try {
      return listed(handle(new Event(received)));
    } catch (error) {
      throw failure(error);
    }
  };
}

/**
 * @param {any} returned
 * @returns {import('./output.js').Output[]}
 */
function listed(returned) {
  if (returned === undefined || returned === null) return [];
  if (typeof returned.then === 'function') {
    throw new TypeError('the handler returned a promise; it must not be async, since nothing would wait for it');
  }
  return Array.isArray(returned) ? returned : [returned];
}

/**
 * What is told of something that was thrown. What is neither `Retry` nor `Reject` is a fault of the program or of what
 * it relies on: the attempt has failed, and the history shows the stack.
 * @param {unknown} error
 * @returns {Failure}
 */
export function failure(error) {
  if (error instanceof Reject) {
    return { tag: 'reject', val: { code: error.code, message: error.message, detail: error.detail } };
  }
  if (error instanceof Retry) {
    return { tag: 'retry', val: [{ code: error.code, message: error.message, detail: error.detail }, error.afterMs] };
  }
  const [message, detail] = error instanceof Error ? [String(error), error.stack] : [`threw ${String(error)}`, undefined];
  return { tag: 'retry', val: [{ message, detail }, undefined] };
}
