// The event that a handler is given.

import { Reject } from './failure.js';
import { decode } from './utf8.js';

/**
 * An event as the host hands it over.
 * @typedef {object} Received
 * @property {string} id
 * @property {string} subject
 * @property {string | null} [kind]
 * @property {string | null} [source]
 * @property {number | bigint | null} [timeMs]
 * @property {string | null} [contentType]
 * @property {string} correlationId
 * @property {string | null} [causationId]
 * @property {number} attempt
 * @property {number} maxAttempts
 * @property {[string, string][]} headers
 * @property {Uint8Array} payload
 */

/** One event. It looks the same however the message was encoded on the wire. */
export class Event {
  /** @param {Received} received */
  constructor(received) {
    /**
     * Identifies the event; the same for every attempt and every duplicate of it. Use it as the idempotency key for
     * effects outside of the event stream.
     */
    this.id = received.id;
    /** The subject the event was first published on. */
    this.subject = received.subject;
    /** What kind of event it is (the CloudEvents `type`), where the message says so. */
    this.kind = received.kind ?? null;
    /** Where the event comes from (the CloudEvents `source`), where the message says so. */
    this.source = received.source ?? null;
    /** When it happened, in milliseconds since the Unix epoch. */
    this.timeMs = received.timeMs == null ? null : Number(received.timeMs);
    /** The media type of `payload`, where the message says so. */
    this.contentType = received.contentType ?? null;
    /** Shared by all events that follow from the same first event. */
    this.correlationId = received.correlationId;
    /** The id of the event whose handling published this one, if any. */
    this.causationId = received.causationId ?? null;
    /** Which attempt this is, counted from 1. */
    this.attempt = received.attempt;
    /** After how many failed attempts the event goes to the dead letters. */
    this.maxAttempts = received.maxAttempts;
    /** The message's headers, sorted by name; a name may occur more than once. */
    this.headers = received.headers;
    /** The event's data, unchanged. */
    this.payload = received.payload;
  }

  /**
   * Reads the payload as UTF-8 text.
   * @returns {string}
   * @throws {Reject} If it is none: it never will be.
   */
  text() {
    try {
      return decode(this.payload);
    } catch {
      throw new Reject('the payload is not UTF-8 text');
    }
  }

  /**
   * Reads the payload as JSON. What the value is remains to be checked.
   * @template [T=unknown]
   * @returns {T}
   * @throws {Reject} If it is none: it never will be.
   */
  json() {
    const text = this.text();
    try {
      return JSON.parse(text);
    } catch (error) {
      throw new Reject(`the payload is not JSON: ${error instanceof Error ? error.message : error}`);
    }
  }

  /**
   * The first header of this name; upper and lower case make no difference.
   * @param {string} name
   * @returns {string | undefined}
   */
  header(name) {
    const wanted = name.toLowerCase();
    return this.headers.find(([found]) => found.toLowerCase() === wanted)?.[1];
  }

  /** Whether the event goes to the dead letters if this attempt fails. */
  isLastAttempt() {
    return this.attempt >= this.maxAttempts;
  }
}
