// What handlers throw. Anything else that is thrown is a fault of the program, and a failed attempt as well.

/**
 * What may be said of a failure besides its message.
 * @typedef {object} Options
 * @property {number} [code] A code of the handler's own, such as an HTTP status.
 * @property {string} [detail] More about it, for the event's error history.
 */

/** It may work later: the event is attempted again as the retry policy says. */
export class Retry extends Error {
  /**
   * @param {string} message
   * @param {Options & { afterMs?: number }} [options] `afterMs` is a wish for the delay, in milliseconds.
   */
  constructor(message, { code, detail, afterMs } = {}) {
    super(message);
    this.name = 'Retry';
    this.code = code;
    this.detail = detail;
    this.afterMs = afterMs;
  }
}

/** It can never work: the event goes to the dead letters at once. */
export class Reject extends Error {
  /**
   * @param {string} message
   * @param {Options} [options]
   */
  constructor(message, { code, detail } = {}) {
    super(message);
    this.name = 'Reject';
    this.code = code;
    this.detail = detail;
  }
}
