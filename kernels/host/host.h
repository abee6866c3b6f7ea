/* host: private header of the device whose memory is the host's. */
#pragma once
#include "kernels/kernels.h"

#define X(slot) DEVICE_TYPE(slot) host_device_##slot;
DEVICE_LIST(X)
#undef X
