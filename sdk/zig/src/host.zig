//! What the host offers; natively, something in its place for unit tests.

const std = @import("std");
const builtin = @import("builtin");
const abi = @import("abi.zig");
const component = @import("component.zig");
const tidemill = @import("tidemill.zig");

const is_wasm = builtin.cpu.arch.isWasm();

const imports = struct {
    const import_log = @extern(
        *const fn (u32, [*]const u8, usize, [*]const u8, usize) callconv(.c) void,
        .{ .name = "log", .library_name = "wasi:logging/logging@0.1.0-draft" },
    );
    const import_get = @extern(
        *const fn ([*]const u8, usize, *abi.Setting) callconv(.c) void,
        .{ .name = "get", .library_name = "wasi:config/store@0.2.0-rc.1" },
    );
};

pub fn log(level: tidemill.Level, context: []const u8, message: []const u8) void {
    if (is_wasm) {
        // The host takes nothing but UTF-8.
        const text = if (std.unicode.utf8ValidateSlice(message)) message else "a log line that is not UTF-8";
        imports.import_log(@backingInt(level), context.ptr, context.len, text.ptr, text.len);
    } else if (!builtin.is_test) { // where the test runner takes it for a fault
        std.debug.print("{t} {s}: {s}\n", .{ level, context, message });
    }
}

pub fn config(key: []const u8) ?[]const u8 {
    if (is_wasm) {
        var setting: abi.Setting = undefined;
        imports.import_get(key.ptr, key.len, &setting);
        if (setting.is_error != 0) @panic("a setting cannot be read");
        return component.liftOption(setting.value);
    }
    for (tidemill.testing.settings) |setting| {
        if (std.mem.eql(u8, setting.key, key)) return setting.value;
    }
    return null;
}
