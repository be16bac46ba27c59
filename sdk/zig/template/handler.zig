//! Accepts an order if it has a total, and says so.

const std = @import("std");
const tidemill = @import("tidemill");

pub const panic = tidemill.panic;

comptime {
    tidemill.handler(handle);
}

const Order = struct {
    order_id: []const u8,
    total_cents: ?i64 = null,
};

fn handle(call: *tidemill.Call) anyerror!void {
    const order = try call.json(Order); // not JSON, or no order_id: rejected
    const total_cents = order.total_cents orelse return call.reject("total_cents is missing", .{});
    if (total_cents < 0) return call.reject("total_cents is {d}; it cannot be negative", .{total_cents});
    tidemill.log(.info, "order {s} of {d} cents", .{ order.order_id, total_cents });

    const accepted = .{ .order_id = order.order_id, .total_cents = total_cents };
    try call.publish(.{
        .subject = "order.accepted",
        .kind = "order.accepted",
        .content_type = "application/json",
        .payload = try std.json.Stringify.valueAlloc(call.arena, accepted, .{}),
    });
}

test "an order is accepted" {
    var arena: std.heap.ArenaAllocator = .init(std.testing.allocator);
    defer arena.deinit();
    var call = tidemill.testing.call(arena.allocator(), "order.placed",
        \\{"order_id": "o-1", "total_cents": 1250}
    );
    try handle(&call);
    try std.testing.expectEqual(1, call.outputs.items.len);
    try std.testing.expectEqualStrings("order.accepted", call.outputs.items[0].subject);
    try std.testing.expectEqualStrings(
        \\{"order_id":"o-1","total_cents":1250}
    , call.outputs.items[0].payload);
}

test "an order without a total is rejected" {
    var arena: std.heap.ArenaAllocator = .init(std.testing.allocator);
    defer arena.deinit();
    var call = tidemill.testing.call(arena.allocator(), "order.placed",
        \\{"order_id": "o-1"}
    );
    const failed = handle(&call);
    try std.testing.expectError(error.Failed, failed);
    try std.testing.expect(call.failure.?.rejected);
    try std.testing.expectEqualStrings("total_cents is missing", call.failure.?.message);
}
