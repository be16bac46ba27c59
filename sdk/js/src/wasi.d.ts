// The interfaces of the host that main.js uses.

declare module 'wasi:logging/logging@0.1.0-draft' {
  export function log(level: string, context: string, message: string): void;
}

declare module 'wasi:config/store@0.2.0-rc.1' {
  export function get(key: string): string | null | undefined;
}

declare module 'wasi:random/insecure@0.2.12' {
  export function getInsecureRandomU64(): bigint;
}
