// Copies the payload into one output on `out.echo`: the least that a handler in JavaScript can do, for benchmarks.

import { bytes } from './tidemill/index.js';

export default function handle(event) {
  return bytes('out.echo', event.payload);
}
