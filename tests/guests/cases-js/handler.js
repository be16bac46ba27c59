// The cases that every language's kit must handle alike (tests/integration/languages.rs): the event says what to do.

import { bytes, config, json, log, Reject, Retry } from './tidemill/index.js';

const verbs = {
  echo: (event) =>
    bytes('out.case', event.payload, {
      kind: 'case.echoed',
      contentType: 'application/json',
      headers: { 'x-case': 'echo' },
    }),
  many: (_, { count }) => Array.from({ length: count }, (_, index) => json('out.case', { index })),
  retry: () => {
    throw new Retry('busy', { code: 503, afterMs: 250 });
  },
  reject: () => {
    throw new Reject('no good', { code: 422, detail: 'because' });
  },
  describe: ({ id, subject, attempt, correlationId: correlation, headers, payload }) =>
    json('out.case', { id, subject, attempt, correlation, headers, size: payload.length }),
  text: (_, { text }) => json('out.case', { text, length: [...text].length }),
  config: (_, { key }) => json('out.case', { value: config.get(key) ?? null }),
  log: (_, { text }) => {
    log.info(text);
    console.log(`printed ${text}`);
  },
  panic: () => innerOfTheCase(),
  loop: () => {
    for (;;);
  },
  hog: () => {
    const taken = [];
    for (;;) taken.push(new Uint8Array(1024 * 1024).fill(1));
  },
};

export default function handle(event) {
  if (event.payload.length === 0) return json('out.case', { empty: true });
  const asked = event.json();
  if (typeof asked?.do !== 'string') throw new Reject('the payload is no JSON object with a text "do"');
  if (!Object.hasOwn(verbs, asked.do)) throw new Reject(`unknown: ${asked.do}`);
  return verbs[asked.do](event, asked);
}

function innerOfTheCase() {
  throw new Error('asked to panic');
}
