/* crc32c: the Castagnoli checksum of safetensors data and of TensorBoard's records. */
#pragma once
#include <stddef.h>
#include <stdint.h>

/* Continues from `crc` (0 at the start): crc32c(crc32c(0, a), b) is the checksum of a followed by
 * b. Reflected polynomial 0x82f63b78; "123456789" gives 0xe3069283. */
uint32_t crc32c(uint32_t crc, const void *bytes, size_t n);
