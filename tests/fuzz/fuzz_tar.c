/* Any bytes as a shard, plain or zstd: indexed members are inside it and can be read. */
#include "data/index.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    Index ix;
    Error err;
    Stream *s = stream_open_memory(bytes, n);
    bool ok = index_scan(&ix, s, &err);
    uint64_t end = ix.h.frames ? ix.frames[ix.h.frames].raw : n;
    stream_close(s);
    if (ok) {
        if (ix.h.flags & INDEX_DAMAGED && !err.text[0]) abort();
        for (size_t i = 0; i < ix.h.members; i++)
            if (ix.members[i].offset > end || ix.members[i].size > end - ix.members[i].offset)
                abort();
        IndexKeys k = index_keys_new("jpg;png", "txt", n % 2);
        IndexPick p;
        size_t usable = 0;
        for (size_t i = 0; i < ix.h.samples; i++)
            if (index_pick(&ix, &k, i, &p) && strlen(p.key) + p.image->size) usable++;
        index_count(&ix, &k);
        if (usable != ix.h.usable) abort();
        index_keys_free(&k);
    }
    index_free(&ix);
    return 0;
}
