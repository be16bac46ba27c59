const std = @import("std");

/// `zig build` makes zig-out/bin/{{name}}.wasm; `zig build test` runs the unit tests natively.
pub fn build(b: *std.Build) void {
    const optimize = b.option(std.lang.Optimize, "optimize", "how to compile (safe: checks stay on)") orelse .safe;
    const wasi = b.resolveTargetQuery(.{ .cpu_arch = .wasm32, .os_tag = .wasi });

    const plugin = b.addExecutable(.{ .name = "{{name}}", .root_module = module(b, wasi, optimize) });
    plugin.entry = .disabled;
    plugin.rdynamic = true; // exports what the host calls
    plugin.wasi_exec_model = .reactor;
    plugin.stack_size = 256 * 1024; // every instance has one, from its start
    b.installArtifact(plugin);

    const tests = b.addTest(.{ .root_module = module(b, b.graph.host, .debug) });
    b.step("test", "Run the unit tests natively").dependOn(&b.addRunArtifact(tests).step);
}

fn module(b: *std.Build, target: std.Build.ResolvedTarget, optimize: std.lang.Optimize) *std.Build.Module {
    const tidemill = b.createModule(.{
        .root_source_file = b.path("tidemill/tidemill.zig"),
        .target = target,
        .optimize = optimize,
    });
    return b.createModule(.{
        .root_source_file = b.path("handler.zig"),
        .target = target,
        .optimize = optimize,
        .imports = &.{.{ .name = "tidemill", .module = tidemill }},
    });
}
