// Awards loyalty points for a priced order.
//
// Input, on `order.priced`: what the plugin order-pricing publishes. Output, on `loyalty.awarded`: the
// points. What the points are is decided in award.js.

import { config, json, log } from './tidemill/index.js';
import { award } from './award.js';

export default function handle(event) {
  const awarded = award(event.json(), event, config.get('points_per_euro'));
  log.info(`order ${awarded.order_id} earns ${awarded.points} points`);
  return json('loyalty.awarded', awarded, { kind: 'loyalty.awarded' });
}
