#include "data/text/word_cache.h"
#include <stdlib.h>
#include <string.h>

enum { SLOTS = 1 << 17, WORDS_MAX = SLOTS / 2 };

typedef struct WordSlot {
    uint64_t hash; /* 0: free */
    uint32_t at;   /* in the arena: the ids, then the word's bytes */
    uint16_t bytes, ids;
} WordSlot;

void word_cache_init(WordCache *c, size_t id_size, size_t room) {
    *c = (WordCache){.slots = xcalloc(SLOTS, sizeof *c->slots),
                     .arena = xmalloc(room),
                     .room = room,
                     .id_size = id_size};
}

void word_cache_free(WordCache *c) { FREE_ALL(c->slots, c->arena); }

uint64_t word_hash(const char *s, size_t n) {
    uint64_t h = n, part = 0;
    for (; n > 8; s += 8, n -= 8) {
        memcpy(&part, s, 8);
        h = (h ^ part) * 0x9E3779B97F4A7C15u;
        h ^= h >> 29;
    }
    part = 0;
    memcpy(&part, s, n);
    h = (h ^ part) * 0x9E3779B97F4A7C15u;
    return h ^ h >> 32;
}

/* That of a slot which is taken. */
static uint64_t slot_hash(uint64_t hash) { return hash | 1u << 31; }

const void *word_cache_find(const WordCache *c, uint64_t hash, const char *word, size_t n,
                            size_t *count) {
    hash = slot_hash(hash);
    for (size_t i = hash & (SLOTS - 1); c->slots[i].hash != 0; i = (i + 1) & (SLOTS - 1)) {
        const WordSlot *s = &c->slots[i];
        if (s->hash != hash || s->bytes != n) continue;
        const char *at = c->arena + s->at;
        if (memcmp(at + s->ids * c->id_size, word, n) != 0) continue;
        *count = s->ids;
        return at;
    }
    return NULL;
}

void word_cache_add(WordCache *c, uint64_t hash, const char *word, size_t n, const void *ids,
                    size_t count) {
    size_t ids_bytes = count * c->id_size, bytes = round_up(ids_bytes + n, c->id_size);
    if (c->words == WORDS_MAX || c->used + bytes > c->room) {
        memset(c->slots, 0, SLOTS * sizeof *c->slots);
        c->words = c->used = 0;
    }
    hash = slot_hash(hash);
    size_t i = hash & (SLOTS - 1);
    while (c->slots[i].hash != 0) i = (i + 1) & (SLOTS - 1);
    c->slots[i] = (WordSlot){hash, (uint32_t)c->used, (uint16_t)n, (uint16_t)count};
    memcpy(c->arena + c->used, ids, ids_bytes);
    memcpy(c->arena + c->used + ids_bytes, word, n);
    c->used += bytes;
    c->words++;
}
