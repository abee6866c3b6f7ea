/* word_cache: the ids of words that a thread has met, by the words' bytes; it is emptied when it is
 * full. */
#pragma once
#include "kernels/base.h"

typedef struct WordCache {
    struct WordSlot *slots;
    size_t words;
    char *arena;
    size_t used, room;
    size_t id_size;
} WordCache;
enum { WORD_CACHE_LONGEST = 255 }; /* bytes of a word that can be kept */

/* id_size: bytes of an id; room: bytes for words and their ids. Free with word_cache_free. */
void word_cache_init(WordCache *c, size_t id_size, size_t room);
void word_cache_free(WordCache *c);
/* A hash of up to some hundred bytes. */
uint64_t word_hash(const char *s, size_t n);
/* The ids [*count] of a word with this word_hash, valid until the next word_cache_add; NULL: it is
 * not there. */
const void *word_cache_find(const WordCache *c, uint64_t hash, const char *word, size_t n,
                            size_t *count);
/* Keeps a word that is not there, of at most WORD_CACHE_LONGEST bytes, and a copy of its ids. */
void word_cache_add(WordCache *c, uint64_t hash, const char *word, size_t n, const void *ids,
                    size_t count);
