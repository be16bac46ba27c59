//! Event handlers for tidemill in Zig: functions from an event to the messages that follow from it.
//!
//! ```zig
//! const tidemill = @import("tidemill");
//! pub const panic = tidemill.panic; // in the root file: panics tell their message
//! comptime {
//!     tidemill.handler(handle);
//! }
//!
//! fn handle(call: *tidemill.Call) !void {
//!     const order = try call.json(struct { id: []const u8 });
//!     try call.publishJson("order.seen", .{ .id = order.id });
//! }
//! ```

const std = @import("std");
const builtin = @import("builtin");
const host = @import("host.zig");
const component = @import("component.zig");

/// A header of a message.
pub const Header = struct { name: []const u8, value: []const u8 };

/// What a handler is given. It looks the same however the message was encoded on the wire.
pub const Event = struct {
    /// The same for every attempt and every duplicate: the idempotency key for effects elsewhere.
    id: []const u8,
    /// The subject it was first published on.
    subject: []const u8,
    /// What kind of event it is, the CloudEvents type.
    kind: ?[]const u8 = null,
    /// Where it comes from, the CloudEvents source.
    source: ?[]const u8 = null,
    /// When it happened, in milliseconds since the Unix epoch.
    time_ms: ?u64 = null,
    /// The media type of the payload.
    content_type: ?[]const u8 = null,
    /// Shared by all events that follow from the same first event.
    correlation_id: []const u8,
    /// The id of the event whose handling published this one.
    causation_id: ?[]const u8 = null,
    /// Which attempt this is, counted from 1.
    attempt: u32,
    /// After how many failed attempts the event goes to the dead letters.
    max_attempts: u32,
    /// Sorted by name; a name may occur more than once.
    headers: []const Header = &.{},
    /// The event's data, unchanged.
    payload: []const u8,

    /// The first header of this name, whatever its case.
    pub fn header(event: Event, name: []const u8) ?[]const u8 {
        for (event.headers) |found| {
            if (std.ascii.eqlIgnoreCase(found.name, name)) return found.value;
        }
        return null;
    }
};

/// A message to be published. It takes effect only if the handler returns no error.
pub const Output = struct {
    /// Where to publish; the handler must be granted it (`allow.publish`).
    subject: []const u8,
    /// Makes the message a CloudEvent of this type.
    kind: ?[]const u8 = null,
    /// The media type of the payload.
    content_type: ?[]const u8 = null,
    headers: []const Header = &.{},
    payload: []const u8 = "",
};

/// Why an event could not be handled.
pub const Failure = struct {
    /// Whether it can never work, so that the event goes to the dead letters at once.
    rejected: bool = false,
    /// One sentence that says what went wrong.
    message: []const u8,
    /// A code of the handler's own, such as an HTTP status.
    code: ?i32 = null,
    /// More about it, such as a response.
    detail: ?[]const u8 = null,
    /// The handler's wish for the delay until the next attempt, in milliseconds.
    delay_ms: ?u32 = null,
};

/// One call of a handler: the event, what is to be published, and why it failed.
pub const Call = struct {
    event: Event,
    /// Memory until the end of the call; nothing of it need be freed.
    arena: std.mem.Allocator,
    outputs: std.ArrayList(Output) = .empty,
    /// Set where the handler says what its error means.
    failure: ?Failure = null,

    pub const Error = error{ Failed, OutOfMemory };

    /// A message to be published when the handler has succeeded.
    pub fn publish(call: *Call, output: Output) error{OutOfMemory}!void {
        try call.outputs.append(call.arena, output);
    }

    /// A message with a JSON payload.
    pub fn publishJson(call: *Call, subject: []const u8, value: anytype) error{OutOfMemory}!void {
        try call.publish(.{
            .subject = subject,
            .content_type = "application/json",
            .payload = try std.json.Stringify.valueAlloc(call.arena, value, .{}),
        });
    }

    /// Reads the payload as JSON. What does not fit is rejected: it never will. Fields that `T` does not have are let
    /// go.
    pub fn json(call: *Call, comptime T: type) Error!T {
        var scanner: std.json.Scanner = .initCompleteInput(call.arena, call.event.payload);
        var place: std.json.Diagnostics = .{};
        scanner.enableDiagnostics(&place);
        return std.json.parseFromTokenSourceLeaky(T, call.arena, &scanner, .{ .ignore_unknown_fields = true }) catch |err| {
            if (err == error.OutOfMemory) return error.OutOfMemory;
            return call.reject("the payload is not the JSON that is expected: {t}, line {d} column {d}", .{
                err, place.getLine(), place.getColumn(),
            });
        };
    }

    /// It may work later: the event is attempted again as the policy says. To be returned: `return call.retry(..)`.
    pub fn retry(call: *Call, comptime format: []const u8, args: anytype) Error {
        return call.fail(.{ .message = try std.fmt.allocPrint(call.arena, format, args) });
    }

    /// It can never work: the event goes to the dead letters at once. To be returned.
    pub fn reject(call: *Call, comptime format: []const u8, args: anytype) Error {
        return call.fail(.{ .rejected = true, .message = try std.fmt.allocPrint(call.arena, format, args) });
    }

    /// The same with all that can be said about a failure. To be returned.
    pub fn fail(call: *Call, failure: Failure) Error {
        call.failure = failure;
        return error.Failed;
    }

    /// What the host is told of an error: what the handler said, else its name, and that it may work later.
    pub fn failureOf(call: *const Call, err: anyerror) Failure {
        if (err == error.Failed) if (call.failure) |failure| return failure;
        return .{ .message = @errorName(err) };
    }
};

/// Makes a function the plugin's handler. To be called at comptime, in the root file. Natively it only checks the
/// function's type.
pub fn handler(comptime handle: fn (*Call) anyerror!void) void {
    if (builtin.cpu.arch.isWasm()) component.exportHandler(handle);
}

/// How urgent a log line is.
pub const Level = enum(u8) { trace, debug, info, warn, err, critical };

/// Emits a log line, which the host marks with handler, event and attempt. Longer ones are cut at 4 KiB.
pub fn log(level: Level, comptime format: []const u8, args: anytype) void {
    var buffer: [4096]u8 = undefined;
    var writer: std.Io.Writer = .fixed(&buffer);
    writer.print(format, args) catch {}; // what fits is there
    host.log(level, "handler", writer.buffered());
}

/// The value of a setting of the handler's `config` or `secrets`.
pub fn config(key: []const u8) ?[]const u8 {
    return host.config(key);
}

/// Tells a panic's message, which is in the event's history then, with the stack of calls. For the root file:
/// `pub const panic = tidemill.panic;`
pub const panic = std.debug.FullPanic(panicked);

fn panicked(message: []const u8, first_trace_addr: ?usize) noreturn {
    @branchHint(.cold);
    if (!builtin.cpu.arch.isWasm()) std.debug.defaultPanic(message, first_trace_addr);
    host.log(.critical, "panic", message);
    @trap();
}

/// What unit tests need, which run natively.
pub const testing = struct {
    pub const Setting = struct { key: []const u8, value: []const u8 };

    /// All that `config` returns natively.
    pub var settings: []const Setting = &.{};

    /// A call for a first attempt of five at an event with this payload.
    pub fn call(arena: std.mem.Allocator, subject: []const u8, payload: []const u8) Call {
        return .{ .arena = arena, .event = .{
            .id = "event-1",
            .subject = subject,
            .correlation_id = "event-1",
            .attempt = 1,
            .max_attempts = 5,
            .payload = payload,
        } };
    }
};
