//! What the host calls. Only on WebAssembly.

const std = @import("std");
const abi = @import("abi.zig");
const tidemill = @import("tidemill.zig");

const gpa = std.heap.wasm_allocator;

/// Emptied at the end of each call; so much is kept for the next one.
var arena: std.heap.ArenaAllocator = .init(gpa);
const kept_bytes = 64 * 1024;

var result: abi.Result = undefined;

pub fn exportHandler(comptime handle: fn (*tidemill.Call) anyerror!void) void {
    const exports = struct {
        fn handleEvent(event: *const abi.Event) callconv(.c) *const abi.Result {
            run(event, handle) catch @panic("out of memory");
            return &result;
        }
    };
    @export(&exports.handleEvent, .{ .name = "tidemill:handler/handler@0.1.0#handle" });
    @export(&eventHandled, .{ .name = "cabi_post_tidemill:handler/handler@0.1.0#handle" });
    @export(&allocate, .{ .name = "cabi_realloc" });
    @export(&allocateForAdapter, .{ .name = "cabi_realloc_adapter" });
}

fn run(event: *const abi.Event, comptime handle: fn (*tidemill.Call) anyerror!void) !void {
    var call: tidemill.Call = .{ .arena = arena.allocator(), .event = try lift(event) };
    if (handle(&call)) {
        result = .{ .is_failure = 0, .as = .{ .outputs = try lowerOutputs(call.outputs.items) } };
    } else |err| {
        result = .{ .is_failure = 1, .as = .{ .failure = try lowerFailure(call.failureOf(err)) } };
    }
}

/// The host has read the result.
fn eventHandled(_: *const abi.Result) callconv(.c) void {
    _ = arena.reset(.{ .retain_with_limit = kept_bytes });
}

/// Where the host puts what it hands over.
fn allocate(old: ?[*]u8, old_len: usize, alignment: usize, len: usize) callconv(.c) ?[*]u8 {
    return reallocate(arena.allocator(), old, old_len, alignment, len);
}

/// Memory of the adapter for WASI preview 1, which keeps it.
fn allocateForAdapter(old: ?[*]u8, old_len: usize, alignment: usize, len: usize) callconv(.c) ?[*]u8 {
    return reallocate(gpa, old, old_len, alignment, len);
}

fn reallocate(from: std.mem.Allocator, old: ?[*]u8, old_len: usize, alignment: usize, len: usize) ?[*]u8 {
    if (len == 0) return @ptrFromInt(alignment);
    const fresh = from.rawAlloc(len, .fromByteUnits(alignment), @returnAddress()) orelse @panic("out of memory");
    if (old_len > 0) @memcpy(fresh[0..@min(old_len, len)], old.?[0..@min(old_len, len)]);
    return fresh;
}

// Lifting does not copy: what the host hands over lies in the arena.

fn slice(comptime T: type, list: abi.List) []const T {
    if (list.len == 0) return &.{};
    return @as([*]const T, @ptrFromInt(list.ptr))[0..list.len];
}

pub fn liftOption(option: abi.OptionList) ?[]const u8 {
    return if (option.is_some == 0) null else slice(u8, option.value);
}

fn lift(event: *const abi.Event) !tidemill.Event {
    const raw_headers = slice(abi.Header, event.headers);
    const headers = try arena.allocator().alloc(tidemill.Header, raw_headers.len);
    for (headers, raw_headers) |*header, raw| {
        header.* = .{ .name = slice(u8, raw.name), .value = slice(u8, raw.value) };
    }
    return .{
        .id = slice(u8, event.id),
        .subject = slice(u8, event.subject),
        .kind = liftOption(event.kind),
        .source = liftOption(event.source),
        .time_ms = if (event.time_ms.is_some == 0) null else event.time_ms.value,
        .content_type = liftOption(event.content_type),
        .correlation_id = slice(u8, event.correlation_id),
        .causation_id = liftOption(event.causation_id),
        .attempt = event.attempt,
        .max_attempts = event.max_attempts,
        .headers = headers,
        .payload = slice(u8, event.payload),
    };
}

fn lower(items: anytype) abi.List {
    return .{ .ptr = if (items.len == 0) 0 else @intCast(@intFromPtr(items.ptr)), .len = @intCast(items.len) };
}

fn lowerOption(text: ?[]const u8) abi.OptionList {
    return if (text) |some| .{ .is_some = 1, .value = lower(some) } else .{};
}

fn lowerOutputs(outputs: []const tidemill.Output) !abi.List {
    const raw_outputs = try arena.allocator().alloc(abi.Output, outputs.len);
    for (raw_outputs, outputs) |*raw, output| {
        const headers = try arena.allocator().alloc(abi.Header, output.headers.len);
        for (headers, output.headers) |*raw_header, header| {
            raw_header.* = .{ .name = lower(header.name), .value = lower(header.value) };
        }
        raw.* = .{
            .subject = lower(output.subject),
            .kind = lowerOption(output.kind),
            .content_type = lowerOption(output.content_type),
            .headers = lower(headers),
            .payload = lower(output.payload),
        };
    }
    return lower(raw_outputs);
}

fn lowerFailure(failure: tidemill.Failure) !abi.Failure {
    return .{
        .verdict = if (failure.rejected) .reject else .retry,
        .@"error" = .{
            .code = if (failure.code) |code| .{ .is_some = 1, .value = @bitCast(code) } else .{},
            .message = lower(try printable(failure.message)),
            .detail = if (failure.detail) |detail| lowerOption(try printable(detail)) else .{},
        },
        .delay_ms = if (failure.delay_ms) |ms| .{ .is_some = 1, .value = ms } else .{},
    };
}

/// The text with what is not UTF-8 replaced: a message is to arrive, whatever it quotes.
fn printable(text: []const u8) ![]const u8 {
    if (std.unicode.utf8ValidateSlice(text)) return text;
    return std.fmt.allocPrint(arena.allocator(), "{f}", .{std.unicode.fmtUtf8(text)});
}
