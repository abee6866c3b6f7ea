#include "data/content.h"

#include <stdlib.h>

typedef struct ContentSlot {
    Hash128 hash;
    uint64_t number; /* + 1; 0: empty */
} ContentSlot;

/* The slot of h, or the empty slot where it would be inserted. */
static ContentSlot *find(const ContentSet *s, Hash128 h) {
    size_t at = (size_t)h.low & (s->capacity - 1);
    for (;; at = (at + 1) & (s->capacity - 1)) {
        ContentSlot *slot = &s->slots[at];
        if (!slot->number || (slot->hash.low == h.low && slot->hash.high == h.high)) return slot;
    }
}

static void grow(ContentSet *s) {
    ContentSet old = *s;
    s->capacity = size_max(1024, size_mul(old.capacity, 2));
    s->slots = xcalloc(s->capacity, sizeof *s->slots);
    for (size_t i = 0; i < old.capacity; i++)
        if (old.slots[i].number) *find(s, old.slots[i].hash) = old.slots[i];
    free(old.slots);
}

bool content_set_add(ContentSet *s, Hash128 h, uint64_t number, uint64_t *earlier) {
    if (s->count * 4 >= s->capacity * 3) grow(s);
    ContentSlot *slot = find(s, h);
    if (slot->number) {
        *earlier = slot->number - 1;
        return false;
    }
    *slot = (ContentSlot){h, number + 1};
    s->count++;
    return true;
}

void content_set_free(ContentSet *s) {
    free(s->slots);
    *s = (ContentSet){.slots = NULL};
}
