#include "data/io/crc32c.h"

#include <string.h>

#ifdef __SSE4_2__
uint32_t crc32c(uint32_t crc, const void *bytes, size_t n) {
    const unsigned char *p = bytes;
    uint64_t state = ~crc;
    for (; n >= 8; n -= 8, p += 8) {
        uint64_t word;
        memcpy(&word, p, 8);
        state = __builtin_ia32_crc32di(state, word);
    }
    for (; n; n--) state = __builtin_ia32_crc32qi((uint32_t)state, *p++);
    return ~(uint32_t)state;
}
#else
uint32_t crc32c(uint32_t crc, const void *bytes, size_t n) {
    const unsigned char *p = bytes;
    /* four bits at a time: the remainders of 0 … 15 */
    static const uint32_t table[16] = {0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1,
                                       0x417b1dbc, 0x5125dad3, 0x61c69362, 0x7198540d,
                                       0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9,
                                       0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75};
    for (crc = ~crc; n; n--) {
        crc ^= *p++;
        crc = crc >> 4 ^ table[crc & 15];
        crc = crc >> 4 ^ table[crc & 15];
    }
    return ~crc;
}
#endif
