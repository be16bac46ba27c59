// What becomes the component: connects the handler with the host.

import './globals.js';
import { log } from 'wasi:logging/logging@0.1.0-draft';
import { get } from 'wasi:config/store@0.2.0-rc.1';
import { connect } from './host.js';
import { serve } from './serve.js';
import handle from '../handler.js';

connect({ log, get });

export const handler = { handle: serve(handle) };
