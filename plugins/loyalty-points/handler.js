// Awards loyalty points for a priced order.
//
// Input, on `order.priced`: what the plugin order-pricing publishes. Output, on `loyalty.awarded`: the
// points. This file talks to the host; what the points are is decided in award.js.

import { log } from 'wasi:logging/logging@0.1.0-draft';
import { get } from 'wasi:config/store@0.2.0-rc.1';
import { award, Busy, Malformed } from './award.js';
import { decode, encode } from './utf8.js';

const CONTEXT = 'loyalty-points';

export const handler = {
  // A returned value is `ok`, a thrown one is the failure.
  handle(event) {
    try {
      const awarded = award(parse(event.payload), event, get('points_per_euro'));
      log('info', CONTEXT, `order ${awarded.order_id} earns ${awarded.points} points`);
      return [output('loyalty.awarded', awarded)];
    } catch (error) {
      throw failure(error);
    }
  },
};

function parse(payload) {
  try {
    return JSON.parse(decode(payload));
  } catch (error) {
    throw new Malformed(`the payload is not JSON: ${error.message}`);
  }
}

function output(subject, value) {
  return {
    subject,
    kind: subject,
    contentType: 'application/json',
    headers: [],
    payload: encode(JSON.stringify(value)),
  };
}

// Malformed data stays so; a busy system does not. Anything else is a fault of this program: it is
// thrown on, and becomes a trap.
function failure(error) {
  if (error instanceof Malformed) {
    return { tag: 'reject', val: { message: error.message } };
  }
  if (error instanceof Busy) {
    return { tag: 'retry', val: [{ code: 503, message: error.message }, error.retryAfterMs] };
  }
  return error;
}
