#include "kernels/hash.h"

uint64_t fnv_hash(uint64_t h, const void *bytes, size_t n) {
    const uint8_t *b = bytes;
    for (size_t i = 0; i < n; i++) h = (h ^ b[i]) * 0x100000001b3u;
    return h;
}

Hash128 fnv_hash128(const void *bytes, size_t n) {
    typedef unsigned __int128 u128;
    const uint8_t *b = bytes;
    const u128 prime = (u128)1 << 88 | 0x13b;
    u128 h = (u128)0x6c62272e07bb0142u << 64 | 0x62b821756295c58du;
    for (size_t i = 0; i < n; i++) h = (h ^ b[i]) * prime;
    return (Hash128){(uint64_t)(h >> 64), (uint64_t)h};
}
