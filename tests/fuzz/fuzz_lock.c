/* Any bytes as a folder's lock, of which a SLURM job knows an earlier start: refused with its bytes
 * unchanged, or taken over, and then this process is its owner. */
#include "data/io/file.h"
#include "data/io/lock.h"
#include "tests/fuzz/work_folder.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    setenv("SLURM_JOB_ID", "7", 1);
    setenv("SLURM_RESTART_COUNT", "2", 1);
    char *path = work_file("lock", bytes, n);
    Error err = {""};
    uint8_t *left;
    size_t size;
    bool taken = folder_lock(work_folder(), &err);
    if (!file_read_all(path, &left, &size, SIZE_MAX / 2, &err)) abort();
    if (taken) {
        char *own = xasprintf(":%ld 7 2\n", (long)getpid());
        const char *at = strstr((char *)left, own);
        if (!at || at + strlen(own) != (char *)left + size) abort();
        free(own);
        folder_unlock();
        if (mkdir(work_folder(), 0777)) abort(); /* it went with its last file */
    } else if (!*err.text || size != n || (n && memcmp(left, bytes, n))) {
        abort();
    }
    FREE_ALL(left, path);
    return 0;
}
