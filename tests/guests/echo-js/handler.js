// Copies the payload into one output on `out.echo`: the least that a handler in JavaScript can do, for benchmarks.

export const handler = {
  handle(event) {
    return [{ subject: 'out.echo', headers: [], payload: event.payload }];
  },
};
