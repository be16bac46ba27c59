// What becomes the component: connects the handler with the host.

import './globals.js';
import { log } from 'wasi:logging/logging@0.1.0-draft';
import { get } from 'wasi:config/store@0.2.0-rc.1';
import { getInsecureRandomU64 } from 'wasi:random/insecure@0.2.12';
import { connect } from './host.js';
import { serve } from './serve.js';
import handle from '../handler.js';

connect({ log, get });

// The engine's own would give the same numbers in every instance, from a seed that was drawn at build time.
Math.random = () => Number(getInsecureRandomU64() >> 11n) / 2 ** 53;

export const handler = { handle: serve(handle) };
