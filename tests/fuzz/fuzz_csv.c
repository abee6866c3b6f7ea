/* Any bytes as a CSV (the first one is the separator): every field is inside, with a NUL after
 * it. */
#include "data/csv.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    if (n == 0) return 0;
    size_t size = n - 1, count;
    char *text = xmalloc(size + 1);
    memcpy(text, bytes + 1, size);
    CsvReader r = csv_reader(text, size, (char)bytes[0]);
    CsvField f[3];
    Error err;
    while (csv_next(&r, f, COUNT(f), &count, &err))
        for (size_t i = 0; i < size_min(count, COUNT(f)); i++)
            if (f[i].text < text || f[i].text + f[i].size > text + size || f[i].text[f[i].size])
                abort();
    free(text);
    return 0;
}
