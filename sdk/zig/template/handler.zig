//! Works out what an order comes to.

const std = @import("std");
const tidemill = @import("tidemill");

pub const panic = tidemill.panic; // panics tell their message

comptime {
    tidemill.handler(handle);
}

const Order = struct {
    order_id: []const u8,
    quantity: i64 = 0,
    unit_price_cents: i64 = 0,
};

fn handle(call: *tidemill.Call) anyerror!void {
    const order = try call.json(Order); // does not fit: rejected
    if (order.quantity < 1) return call.reject("quantity must be at least 1, not {d}", .{order.quantity});
    if (order.unit_price_cents < 1) {
        return call.reject("unit_price_cents must be at least 1, not {d}", .{order.unit_price_cents});
    }
    const total_cents = order.quantity * order.unit_price_cents;
    tidemill.log(.info, "order {s} comes to {d} cents", .{ order.order_id, total_cents });

    const totalled = .{ .order_id = order.order_id, .total_cents = total_cents };
    try call.publish(.{
        .subject = "order.totalled",
        .kind = "order.totalled",
        .content_type = "application/json",
        .payload = try std.json.Stringify.valueAlloc(call.arena, totalled, .{}),
    });
}

test "an order comes to its quantity times the price" {
    var arena: std.heap.ArenaAllocator = .init(std.testing.allocator);
    defer arena.deinit();
    var call = tidemill.testing.call(arena.allocator(), "order.placed",
        \\{"order_id": "o-1", "quantity": 3, "unit_price_cents": 450}
    );
    try handle(&call);
    try std.testing.expectEqual(1, call.outputs.items.len);
    try std.testing.expectEqualStrings("order.totalled", call.outputs.items[0].subject);
    try std.testing.expectEqualStrings(
        \\{"order_id":"o-1","total_cents":1350}
    , call.outputs.items[0].payload);
}

test "an order without a quantity is rejected" {
    var arena: std.heap.ArenaAllocator = .init(std.testing.allocator);
    defer arena.deinit();
    var call = tidemill.testing.call(arena.allocator(), "order.placed",
        \\{"order_id": "o-2", "unit_price_cents": 450}
    );
    try std.testing.expectError(error.Failed, handle(&call));
    try std.testing.expect(call.failure.?.rejected);
    try std.testing.expectEqualStrings("quantity must be at least 1, not 0", call.failure.?.message);
}
