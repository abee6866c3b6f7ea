#include "data/io/mapfile.h"

#include "data/io/machine.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

bool map_file(MapFile *m, const char *path, Error *err) {
    *m = (MapFile){0};
    struct stat s;
    int fd, tries = 0;
    if (!stat(path, &s) && !S_ISREG(s.st_mode)) return error_set(err, "not a regular file");
    while ((fd = open(path, O_RDONLY | O_CLOEXEC)) < 0)
        if (!machine_again(path, &tries)) return error_set(err, "%s", strerror(errno));
    if (fstat(fd, &s) || !S_ISREG(s.st_mode)) {
        close(fd);
        return error_set(err, "not a regular file");
    }
    void *bytes = NULL;
    int failed = 0;
    if (s.st_size) do
            bytes = mmap(NULL, (size_t)s.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        while (bytes == MAP_FAILED && machine_again(path, &tries));
    if (bytes == MAP_FAILED) failed = errno;
    close(fd);
    if (failed) return error_set(err, "%s", strerror(failed));
    *m = (MapFile){bytes, (size_t)s.st_size};
    return true;
}

void unmap_file(MapFile *m) {
    if (m->bytes) munmap((void *)m->bytes, m->size);
    *m = (MapFile){0};
}
