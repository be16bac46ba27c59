//! The conformance guest: see tests/integration/languages.rs for what it must do.

const std = @import("std");
const tidemill = @import("tidemill");

pub const panic = tidemill.panic;

comptime {
    tidemill.handler(handle);
}

const Request = struct {
    do: []const u8,
    count: usize = 0,
    text: []const u8 = "",
    key: []const u8 = "",
};

const Verb = enum { echo, many, retry, reject, describe, text, config, log, panic, loop, hog };

fn handle(call: *tidemill.Call) anyerror!void {
    if (call.event.payload.len == 0) return publish(call, .{ .empty = true });
    const request = try call.json(Request);
    const verb = std.meta.stringToEnum(Verb, request.do) orelse return call.reject("unknown: {s}", .{request.do});
    switch (verb) {
        .echo => try call.publish(.{
            .subject = "out.case",
            .kind = "case.echoed",
            .content_type = "application/json",
            .headers = &.{.{ .name = "x-case", .value = "echo" }},
            .payload = call.event.payload,
        }),
        .many => for (0..request.count) |index| try publish(call, .{ .index = index }),
        .retry => return call.fail(.{ .message = "busy", .code = 503, .delay_ms = 250 }),
        .reject => return call.fail(.{ .rejected = true, .message = "no good", .code = 422, .detail = "because" }),
        .describe => try describe(call),
        .text => try publish(call, .{
            .text = request.text,
            .length = try std.unicode.utf8CountCodepoints(request.text),
        }),
        .config => try publish(call, .{ .value = tidemill.config(request.key) }),
        .log => {
            tidemill.log(.info, "{s}", .{request.text});
            std.debug.print("printed {s}\n", .{request.text});
        },
        .panic => innerOfTheCase(),
        .loop => {
            var turns: usize = 0;
            while (true) std.mem.doNotOptimizeAway(&turns);
        },
        .hog => while (true) {
            const block = try std.heap.wasm_allocator.alloc(u8, 64 * 1024);
            @memset(block, 1);
        },
    }
}

fn publish(call: *tidemill.Call, value: anytype) !void {
    try call.publishJson("out.case", value);
}

fn describe(call: *tidemill.Call) !void {
    const event = call.event;
    const headers = try call.arena.alloc([2][]const u8, event.headers.len);
    for (headers, event.headers) |*pair, header| pair.* = .{ header.name, header.value };
    try publish(call, .{
        .id = event.id,
        .subject = event.subject,
        .attempt = event.attempt,
        .correlation = event.correlation_id,
        .headers = headers,
        .size = event.payload.len,
    });
}

noinline fn innerOfTheCase() void {
    @panic("asked to panic");
}
