/* Any bytes as metrics.jsonl: cut after a line of a step that is kept, where another cut changes
 * nothing; and as the lines from which a run's validations are shown. */
#include "tests/fuzz/work_folder.h"
#include "train/metrics_file.h"
#include "train/summary.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

/* The bytes that a cut leaves. */
static size_t cut(const char *path, uint64_t keep_step, const uint8_t *bytes, size_t n) {
    Error err;
    uint8_t *left;
    size_t size;
    if (!metrics_cut(path, keep_step, &err)) abort();
    if (!file_read_all(path, &left, &size, n, &err)) abort();
    if ((size && memcmp(left, bytes, size)) || (size && left[size - 1] != '\n')) abort();
    free(left);
    return size;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    static FILE *nowhere;
    if (!nowhere && !(nowhere = fopen("/dev/null", "w"))) abort();
    char *path = work_file("metrics.jsonl", bytes, n);
    FILE *was = stderr;
    stderr = nowhere;
    summary_print(work_folder(), &(Best){.step = 2});
    stderr = was;
    size_t most = cut(path, UINT64_MAX, bytes, n), some = cut(path, 2, bytes, n);
    if (some > most || cut(path, 2, bytes, n) != some || cut(path, 0, bytes, n)) abort();
    free(path);
    return 0;
}
