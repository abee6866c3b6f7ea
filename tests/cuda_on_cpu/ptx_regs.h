/* ptx_regs: assigns registers to places in a warp's frame. */
#pragma once
#include "tests/cuda_on_cpu/ptx.h"

/* Operands and guards of k->code are references: register numbers + 1, or PRESET_REF | index.
 * Replaces them by offsets and sets the presets' offsets and k->frame_bytes. Registers whose lives
 * (one interval each, by live-variable analysis over basic blocks) do not meet share a place. */
#define PRESET_REF 0x80000000u
void regs_assign(Kernel *k);
