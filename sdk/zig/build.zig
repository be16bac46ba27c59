const std = @import("std");

/// `zig build test --cache-dir ../../target/kits/zig` runs the kit's unit tests natively: what lies below `sdk/` is
/// embedded in tidemill.
pub fn build(b: *std.Build) void {
    const tests = b.addTest(.{ .root_module = b.createModule(.{
        .root_source_file = b.path("kit_test.zig"),
        .target = b.graph.host,
        .optimize = .debug,
    }) });
    b.step("test", "Run the unit tests natively").dependOn(&b.addRunArtifact(tests).step);
}
