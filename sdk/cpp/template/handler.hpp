#pragma once

#include "tidemill.hpp"

// Works out what an order comes to.
tidemill::Result handle(const tidemill::Event &event);
