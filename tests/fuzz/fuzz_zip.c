/* Any bytes as a zip archive: refused, or every stored member is inside. */
#include "data/tensors/zip.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    Zip z;
    Error err;
    if (!zip_open(&z, bytes, n, &err)) return 0;
    for (size_t i = 0; i < z.count; i++) {
        const ZipMember *m = &z.members[i];
        if (!zip_find(&z, m->name)) abort();
        if (m->stored && (m->data < bytes || m->size > (size_t)(bytes + n - m->data))) abort();
        zip_verify(m, &err);
    }
    zip_close(&z);
    return 0;
}
