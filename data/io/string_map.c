#include "data/io/string_map.h"
#include "kernels/hash.h"

#include <stdlib.h>
#include <string.h>

/* The slot of s, or the empty slot where it would be inserted. */
static uint32_t *find_slot(const StringMap *m, const char *s) {
    uint64_t hash = fnv_hash(FNV_START, s, strlen(s));
    size_t at = (hash ^ hash >> 32) & (m->slot_count - 1);
    while (m->slots[at] && strcmp(m->strings[m->slots[at] - 1], s) != 0)
        at = (at + 1) & (m->slot_count - 1);
    return &m->slots[at];
}

static void grow_slots(StringMap *m) {
    free(m->slots);
    m->slot_count = m->slot_count ? 2 * m->slot_count : 1024;
    m->slots = xcalloc(m->slot_count, sizeof *m->slots);
    for (size_t i = 0; i < m->count; i++) *find_slot(m, m->strings[i]) = (uint32_t)i + 1;
}

uint32_t string_map_put(StringMap *m, const char *s, bool *added) {
    if (2 * m->count >= m->slot_count) grow_slots(m);
    uint32_t *slot = find_slot(m, s);
    if (added) *added = !*slot;
    if (*slot) return *slot - 1;
    if (m->count == UINT32_MAX - 1) die("more than %zu different strings", m->count);
    if (m->count == m->capacity) {
        m->capacity = size_max(256, 2 * m->capacity);
        m->strings = xrealloc(m->strings, size_mul(m->capacity, sizeof *m->strings));
    }
    m->strings[m->count] = s;
    *slot = (uint32_t)++m->count;
    return *slot - 1;
}

uint32_t string_map_find(const StringMap *m, const char *s) {
    return m->slot_count ? *find_slot(m, s) - 1 : UINT32_MAX;
}

void string_map_free(StringMap *m) {
    FREE_ALL(m->strings, m->slots);
    *m = (StringMap){0};
}
