/* Any bytes as an index file whose sums are right: refused, or every number in it can be used. */
#include "data/index.h"
#include "kernels/hash.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

enum { HEADER = 104 };

static void put64(uint8_t *b, uint64_t v) {
    for (int i = 0; i < 8; i++) b[i] = (uint8_t)(v >> 8 * i);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    uint8_t *file = xmalloc(n);
    if (n) memcpy(file, bytes, n);
    if (n >= HEADER) { /* a fuzzer cannot find checksums: correct them */
        put64(file + 88, fnv_hash(FNV_START, file + HEADER, n - HEADER));
        put64(file + 96, fnv_hash(FNV_START, file, 96));
    }
    Index ix;
    Error err;
    if (index_parse(&ix, file, n, &err)) {
        IndexKeys k = index_keys_new("jpg;png", "txt", n % 2);
        IndexPick p;
        for (size_t i = 0; i < ix.h.samples; i++)
            if (index_pick(&ix, &k, i, &p) && strlen(p.key) > n) abort();
        uint64_t end = ix.h.frames ? ix.frames[ix.h.frames].raw : ix.h.shard.size;
        for (size_t i = 0; i < ix.h.members; i++)
            if (ix.members[i].offset + ix.members[i].size > end) abort();
        index_keys_free(&k);
        index_free(&ix);
    }
    free(file);
    return 0;
}
