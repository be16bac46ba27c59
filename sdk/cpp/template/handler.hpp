#pragma once

#include "tidemill.hpp"

// Accepts an order if it has a total, and says so.
tidemill::Result handle(const tidemill::Event &event);
