#include "handler.hpp"

TIDEMILL_HANDLER(handle)

tidemill::Result handle(const tidemill::Event &event) {
  tidemill::Failure failure;
  auto order = tidemill::json(event, failure);
  if (!order) return failure;  // not JSON: rejected

  auto order_id = order["order_id"].text();
  auto total_cents = order["total_cents"].integer();
  if (!order_id) return tidemill::reject("order_id is missing");
  if (!total_cents) return tidemill::reject("total_cents is missing");
  if (*total_cents < 0) return tidemill::reject("total_cents is " + std::to_string(*total_cents) + "; it cannot be negative");
  tidemill::log(TM_INFO, "order " + std::string(*order_id) + " of " + std::to_string(*total_cents) + " cents");

  tidemill::JsonWriter accepted;
  accepted.object().key("order_id").text(*order_id).key("total_cents").integer(*total_cents).end_object();
  auto output = tidemill::Output::json("order.accepted", accepted);
  output.kind = "order.accepted";
  return output;
}
