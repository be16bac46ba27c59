#include "handler.hpp"

TIDEMILL_HANDLER(handle)

static tidemill::Failure not_positive(const char *name) {
  auto failure = tidemill::reject(std::string(name) + " must be a whole number of at least 1");
  failure.code = 422;
  return failure;
}

tidemill::Result handle(const tidemill::Event &event) {
  tidemill::Failure failure;
  auto order = tidemill::json(event, failure);
  if (!order) return failure;  // no JSON: rejected

  auto order_id = order["order_id"].text();
  int64_t quantity = order["quantity"].integer().value_or(0);
  int64_t price = order["unit_price_cents"].integer().value_or(0);
  int64_t total;
  if (!order_id) return tidemill::reject("order_id is missing");
  if (quantity < 1) return not_positive("quantity");
  if (price < 1) return not_positive("unit_price_cents");
  if (__builtin_mul_overflow(quantity, price, &total)) return tidemill::reject("the total is too large");
  tidemill::log(TM_INFO, "order " + std::string(*order_id) + " comes to " + std::to_string(total) + " cents");

  tidemill::JsonWriter totalled;
  totalled.object().key("order_id").text(*order_id).key("total_cents").integer(total).end_object();
  auto output = tidemill::Output::json("order.totalled", totalled);
  output.kind = "order.totalled";
  return output;
}
