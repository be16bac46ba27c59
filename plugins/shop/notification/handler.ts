// Tells customers what has become of their orders, in one sentence.

import { type Event, json, type Output, Reject } from './tidemill/index.js';

/** What is read of a fact; whether it is there is checked where it is read. */
interface Fact {
  order_id?: string;
  customer?: { name?: string; email?: string };
  cents?: number;
  reason?: string;
}

export default function handle(event: Event): Output {
  const fact = event.json<Fact | null>() ?? {}; // no JSON: rejected
  const to = text('customer.email', fact.customer?.email);
  const sent = { order_id: text('order_id', fact.order_id), to, text: sentence(event.subject, fact) };
  return json('notification.sent', sent, { kind: 'notification.sent' });
}

function sentence(subject: string, { order_id: id, customer, cents, reason }: Fact): string {
  const dear = `Dear ${text('customer.name', customer?.name)},`;
  switch (subject) {
    case 'order.refused':
      return `${dear} we cannot take your order ${id}: ${text('reason', reason)}.`;
    case 'payment.captured':
      return `${dear} thank you for the ${euros(cents)} for your order ${id}.`;
    case 'payment.failed':
      return `${dear} we could not take the payment for your order ${id}: ${text('reason', reason)}.`;
    case 'payment.refunded':
      return `${dear} you get ${euros(cents)} back for your order ${id}: ${text('reason', reason)}.`;
    default:
      throw new Reject(`nobody is told of ${subject}`);
  }
}

function text(name: string, value: unknown): string {
  if (typeof value !== 'string' || value === '') throw new Reject(`${name} must be a text, not ${JSON.stringify(value)}`);
  return value;
}

function euros(cents: unknown): string {
  if (!Number.isSafeInteger(cents)) throw new Reject(`cents must be a whole number, not ${JSON.stringify(cents)}`);
  return `${((cents as number) / 100).toFixed(2)} €`;
}
