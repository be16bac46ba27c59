//! Unit tests of the kit, run natively by `zig build test`.

const std = @import("std");
const tidemill = @import("src/tidemill.zig");
const testing = std.testing;

test {
    _ = @import("layout.zig");
}

fn call(arena: *std.heap.ArenaAllocator, payload: []const u8) tidemill.Call {
    return tidemill.testing.call(arena.allocator(), "a.b", payload);
}

test "outputs are collected in order" {
    var arena: std.heap.ArenaAllocator = .init(testing.allocator);
    defer arena.deinit();
    var it = call(&arena, "");
    for (0..3) |index| try it.publishJson("out", .{ .index = index });
    try testing.expectEqual(3, it.outputs.items.len);
    try testing.expectEqualStrings("{\"index\":2}", it.outputs.items[2].payload);
    try testing.expectEqualStrings("application/json", it.outputs.items[2].content_type.?);
}

test "what a handler says of its error is what the host is told" {
    var arena: std.heap.ArenaAllocator = .init(testing.allocator);
    defer arena.deinit();
    var it = call(&arena, "");
    try testing.expectEqualStrings("Unexpected", it.failureOf(error.Unexpected).message);
    const err = it.reject("no {s}", .{"good"});
    const failure = it.failureOf(err);
    try testing.expect(failure.rejected);
    try testing.expectEqualStrings("no good", failure.message);
    const later = it.failureOf(it.fail(.{ .message = "busy", .code = 503, .delay_ms = 250 }));
    try testing.expect(!later.rejected);
    try testing.expectEqual(503, later.code.?);
    // An error of another kind, after one that was said and dealt with.
    const other = it.failureOf(error.OutOfMemory);
    try testing.expect(!other.rejected);
    try testing.expectEqualStrings("OutOfMemory", other.message);
}

test "JSON that does not fit is rejected with its place" {
    var arena: std.heap.ArenaAllocator = .init(testing.allocator);
    defer arena.deinit();
    const Wanted = struct { n: u32 };
    for ([_][]const u8{ "", "{", "{\"n\": \"x\"}", "{}", "[1]", "\xff" }) |payload| {
        var it = call(&arena, payload);
        try testing.expectError(error.Failed, it.json(Wanted));
        try testing.expect(it.failure.?.rejected);
        try testing.expect(std.mem.startsWith(u8, it.failure.?.message, "the payload is not the JSON that is expected: "));
    }
    var it = call(&arena, "{\"n\": 7, \"more\": []}");
    try testing.expectEqual(7, (try it.json(Wanted)).n);
}

test "headers are found whatever their case" {
    var arena: std.heap.ArenaAllocator = .init(testing.allocator);
    defer arena.deinit();
    var it = call(&arena, "");
    it.event.headers = &.{ .{ .name = "Tenant", .value = "acme" }, .{ .name = "tenant", .value = "other" } };
    try testing.expectEqualStrings("acme", it.event.header("TENANT").?);
    try testing.expectEqual(null, it.event.header("none"));
}

test "settings are those of the test" {
    tidemill.testing.settings = &.{.{ .key = "from", .value = "a" }};
    try testing.expectEqualStrings("a", tidemill.config("from").?);
    try testing.expectEqual(null, tidemill.config("to"));
}
