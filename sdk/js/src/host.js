// What a handler asks of the host. Without a host, as in unit tests, lines go to standard error, and settings are those
// that a test has set (testing.js).

import { Retry } from './failure.js';

/** @typedef {'trace' | 'debug' | 'info' | 'warn' | 'error' | 'critical'} Level */

/**
 * @typedef {object} Host
 * @property {(level: Level, context: string, message: string) => void} log
 * @property {(key: string) => string | null | undefined} get
 */

/** @type {Host} */
let host = {
  log: (level, context, message) => globalThis.console.error(`${level} ${context}: ${message}`),
  get: () => undefined,
};

/**
 * Takes another host. Handlers have no use for it.
 * @param {Partial<Host>} other
 */
export function connect(other) {
  host = { ...host, ...other };
}

/** @param {Level} level */
const at =
  (level) =>
  /** @param {...unknown} parts What to log; parts that are no text are shown as JSON. */
  (...parts) =>
    host.log(level, 'handler', parts.map(shown).join(' '));

/** Log lines, which the host marks with handler, event and attempt. */
export const log = {
  trace: at('trace'),
  debug: at('debug'),
  info: at('info'),
  warn: at('warn'),
  error: at('error'),
  critical: at('critical'),
};

/** @param {unknown} part */
function shown(part) {
  if (typeof part === 'string') return part;
  if (part instanceof Error) return part.stack ? `${part}\n${part.stack}` : String(part);
  try {
    return JSON.stringify(part) ?? String(part);
  } catch {
    return String(part);
  }
}

/** The `config` and `secrets` of the handler's entry in the manifest. */
export const config = {
  /**
   * The value of a setting, or `undefined` where there is no such setting.
   * @param {string} key
   * @returns {string | undefined}
   */
  get(key) {
    return host.get(key) ?? undefined;
  },

  /**
   * The value of a setting that the handler cannot do without.
   * @param {string} key
   * @returns {string}
   * @throws {Retry} If it is missing: an operator can add it before the attempts are used up.
   */
  require(key) {
    const value = config.get(key);
    if (value === undefined) {
      throw new Retry(`the setting ${JSON.stringify(key)} is missing; add it to the handler's config or secrets`);
    }
    return value;
  },
};
