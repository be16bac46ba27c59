//! Written by `UPDATE_GOLDEN=1 cargo test --workspace --lib layout` from wit/handler.wit.

const abi = @import("src/abi.zig");
const expectEqual = @import("std").testing.expectEqual;

test "the contract's types lie in memory as they should" {
    try expectEqual(112, @sizeOf(abi.Event));
    try expectEqual(0, @offsetOf(abi.Event, "id"));
    try expectEqual(8, @offsetOf(abi.Event, "subject"));
    try expectEqual(16, @offsetOf(abi.Event, "kind"));
    try expectEqual(28, @offsetOf(abi.Event, "source"));
    try expectEqual(40, @offsetOf(abi.Event, "time_ms"));
    try expectEqual(56, @offsetOf(abi.Event, "content_type"));
    try expectEqual(68, @offsetOf(abi.Event, "correlation_id"));
    try expectEqual(76, @offsetOf(abi.Event, "causation_id"));
    try expectEqual(88, @offsetOf(abi.Event, "attempt"));
    try expectEqual(92, @offsetOf(abi.Event, "max_attempts"));
    try expectEqual(96, @offsetOf(abi.Event, "headers"));
    try expectEqual(104, @offsetOf(abi.Event, "payload"));
    try expectEqual(48, @sizeOf(abi.Output));
    try expectEqual(0, @offsetOf(abi.Output, "subject"));
    try expectEqual(8, @offsetOf(abi.Output, "kind"));
    try expectEqual(20, @offsetOf(abi.Output, "content_type"));
    try expectEqual(32, @offsetOf(abi.Output, "headers"));
    try expectEqual(40, @offsetOf(abi.Output, "payload"));
    try expectEqual(28, @sizeOf(abi.Error));
    try expectEqual(0, @offsetOf(abi.Error, "code"));
    try expectEqual(8, @offsetOf(abi.Error, "message"));
    try expectEqual(16, @offsetOf(abi.Error, "detail"));
    try expectEqual(40, @sizeOf(abi.Failure));
    try expectEqual(4, @offsetOf(abi.Failure, "error"));
}
