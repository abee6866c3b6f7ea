#include "kernels/space.h"

#include "kernels/base.h"

#include <stdlib.h>
#include <string.h>

Space space_unbacked(void) {
    return (Space){.base = (char *)((uintptr_t)1 << 56), .size = SIZE_MAX / 2};
}

static void insert(Space *s, size_t i, void *p, size_t bytes) {
    s->list = xrealloc(s->list, (s->count + 1) * sizeof *s->list);
    memmove(s->list + i + 1, s->list + i, (s->count++ - i) * sizeof *s->list);
    s->list[i] = (SpaceBlock){p, bytes};
}

void *space_take(Space *s, size_t bytes) {
    size_t at = 0, i = 0;
    for (; i < s->count; i++) {
        size_t start = (size_t)(s->list[i].p - s->base);
        if (bytes <= start - at) break;
        at = start + s->list[i].bytes;
    }
    if (bytes > s->size - at) return NULL;
    insert(s, i, s->base + at, bytes);
    s->most = size_max(s->most, at + bytes);
    return s->base + at;
}

void space_add(Space *s, void *p, size_t bytes) { insert(s, s->count, p, bytes); }

static size_t place(const Space *s, const void *p) {
    size_t i = 0;
    while (i < s->count && s->list[i].p != p) i++;
    return i;
}

size_t space_find(const Space *s, const void *p) {
    size_t i = place(s, p);
    return i < s->count ? s->list[i].bytes : 0;
}

size_t space_remove(Space *s, const void *p) {
    size_t i = place(s, p);
    if (i == s->count) return 0;
    size_t bytes = s->list[i].bytes;
    memmove(s->list + i, s->list + i + 1, (--s->count - i) * sizeof *s->list);
    return bytes;
}

size_t space_sum(const Space *s) {
    size_t sum = 0;
    for (size_t i = 0; i < s->count; i++) sum += s->list[i].bytes;
    return sum;
}
