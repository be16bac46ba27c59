// The cases that every language's kit must handle alike (tests/integration/languages.rs): the event says what to do.

import { bytes, config, type Event, json, log, type Outputs, Reject, Retry } from './tidemill/index.js';

/** What the payload may ask for. */
interface Case {
  do: string;
  count: number;
  text: string;
  key: string;
}

export default function handle(event: Event): Outputs {
  if (event.payload.length === 0) return json('out.case', { empty: true });
  const asked = event.json<Partial<Case> | null>();
  if (typeof asked?.do !== 'string') throw new Reject('the payload is no JSON object with a text "do"');
  return answer(event, { do: asked.do, count: asked.count ?? 0, text: asked.text ?? '', key: asked.key ?? '' });
}

function answer(event: Event, { do: verb, count, text, key }: Case): Outputs {
  switch (verb) {
    case 'echo':
      return bytes('out.case', event.payload, {
        kind: 'case.echoed',
        contentType: 'application/json',
        headers: { 'x-case': 'echo' },
      });
    case 'many':
      return Array.from({ length: count }, (_, index) => json('out.case', { index }));
    case 'retry':
      throw new Retry('busy', { code: 503, afterMs: 250 });
    case 'reject':
      throw new Reject('no good', { code: 422, detail: 'because' });
    case 'describe':
      return json('out.case', describe(event));
    case 'text':
      return json('out.case', { text, length: [...text].length });
    case 'config':
      return json('out.case', { value: config.get(key) ?? null });
    case 'log':
      log.info(text);
      console.log(`printed ${text}`);
      return;
    case 'panic':
      return innerOfTheCase();
    case 'loop':
      for (;;);
    case 'hog':
      return hog();
    default:
      throw new Reject(`unknown: ${verb}`);
  }
}

function describe({ id, subject, attempt, correlationId: correlation, headers, payload }: Event) {
  return { id, subject, attempt, correlation, headers, size: payload.length };
}

function innerOfTheCase(): never {
  throw new Error('asked to panic');
}

function hog(): never {
  const taken: Uint8Array[] = [];
  for (;;) taken.push(new Uint8Array(1024 * 1024).fill(1));
}
