/* Any bytes as a pickle: refused, or plain data whose parts match their kind. The mutator works on
 * opcodes: most changes of single bytes end at the first wrong length. */
#include "data/tensors/pickle.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);
size_t LLVMFuzzerCustomMutator(uint8_t *bytes, size_t n, size_t most, unsigned seed);
size_t LLVMFuzzerMutate(uint8_t *bytes, size_t n, size_t most);

static void check_tensor(const PickleTensor *t) {
    if (t->storage->kind != PICKLE_STORAGE || !t->storage->name) abort();
    for (size_t i = 0; i < 2 * t->ndim; i++)
        if (t->sizes[i] > INT64_MAX) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    Pickle p;
    Error err;
    if (!pickle_parse(&p, bytes, n, &err)) return 0;
    size_t values = 0;
    for (const PickleValue *v = p.all; v; v = v->next, values++) {
        bool text = v->kind == PICKLE_STRING || v->kind == PICKLE_NAME || v->kind == PICKLE_STORAGE;
        if (text != (v->text != NULL) || (v->kind == PICKLE_DICT && v->count % 2)) abort();
        if (v->kind == PICKLE_TENSOR) check_tensor(v->tensor);
    }
    if (!p.root || values > n) abort();
    pickle_get(p.root, "state_dict");
    pickle_free(&p);
    return 0;
}

/* Whole opcodes, and sequences that build a tensor or refer to the memo. */
#define PIECE(s)                                                                                   \
    { s, sizeof(s) - 1 }
static const struct {
    const char *bytes;
    size_t n;
} pieces[] = {
    PIECE("("),
    PIECE("0"),
    PIECE("1"),
    PIECE("2"),
    PIECE("N"),
    PIECE("}"),
    PIECE("]"),
    PIECE(")"),
    PIECE("a"),
    PIECE("e"),
    PIECE("s"),
    PIECE("u"),
    PIECE("t"),
    PIECE("R"),
    PIECE("b"),
    PIECE("Q"),
    PIECE("\x85"),
    PIECE("\x86"),
    PIECE("\x87"),
    PIECE("\x88"),
    PIECE("\x94"),
    PIECE("K\1"),
    PIECE("K\2"),
    PIECE("q\0"),
    PIECE("q\1"),
    PIECE("q\2"),
    PIECE("h\0"),
    PIECE("h\1"),
    PIECE("h\2"),
    PIECE("J\xff\xff\xff\xff"),
    PIECE("X\1\0\0\0w"),
    PIECE("h\1(K\1K\1e0"),
    PIECE("h\1X\1\0\0\0sa0"),
    PIECE("ccollections\nOrderedDict\n"),
    PIECE("ctorch\nFloatStorage\n"),
    PIECE("ctorch._utils\n_rebuild_tensor_v2\n"),
    PIECE("c__torch__\nM\n)\x81"),
    PIECE("(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0"
          "0X\3\0\0\0cpuK\6tQ"),
    PIECE("ctorch._utils\n_rebuild_tensor_v2\n((X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0000"
          "X\3\0\0\0cpuK\6tQK\0]q\1(K\2K\3e]q\2(K\3K\1e\x89)tR"),
};

/* Bytes of the opcode at p, its argument included; at least 1. */
static size_t opcode_size(const uint8_t *p, size_t left) {
    const uint8_t *feed;
    size_t n = 1;
    switch (*p) {
    case 0x80:
    case 'q':
    case 'h':
    case 'K':
        n = 2;
        break;
    case 'M':
        n = 3;
        break;
    case 'r':
    case 'j':
    case 'J':
        n = 5;
        break;
    case 0x95:
    case 'G':
        n = 9;
        break;
    case 0x8a:
    case 0x8c:
        n = left > 1 ? 2u + p[1] : 1;
        break;
    case 'X':
        n = left > 4 ? 5u + p[1] + 256u * p[2] : 1;
        break;
    case 'c':
        feed = memchr(p, '\n', left);
        if (feed) feed = memchr(feed + 1, '\n', left - (size_t)(feed + 1 - p));
        n = feed ? (size_t)(feed + 1 - p) : 1;
        break;
    default:
        break;
    }
    return size_min(n, left);
}

/* The start of opcode `which` (modulo their number), after the protocol's. */
static size_t opcode_place(const uint8_t *bytes, size_t n, unsigned which) {
    size_t at = size_min(2, n), count = 0;
    for (size_t i = at; i < n; i += opcode_size(bytes + i, n - i)) count++;
    for (size_t k = count ? which % count : 0; k; k--) at += opcode_size(bytes + at, n - at);
    return at;
}

size_t LLVMFuzzerCustomMutator(uint8_t *bytes, size_t n, size_t most, unsigned seed) {
    unsigned kind = seed % 8;
    seed /= 8;
    if (kind == 0 || n < 3) return LLVMFuzzerMutate(bytes, n, most);
    size_t at = opcode_place(bytes, n, seed), size = opcode_size(bytes + at, n - at);
    if (kind == 1) { /* one opcode less */
        memmove(bytes + at, bytes + at + size, n - at - size);
        return n - size;
    }
    const uint8_t *from;
    uint8_t copy[512];
    if (kind == 2) { /* one that is there, once more */
        size_t other = opcode_place(bytes, n, seed / 64);
        size = size_min(opcode_size(bytes + other, n - other), sizeof copy);
        memcpy(copy, bytes + other, size);
        from = copy;
    } else {
        from = (const uint8_t *)pieces[seed / 64 % COUNT(pieces)].bytes;
        size = pieces[seed / 64 % COUNT(pieces)].n;
    }
    if (n + size > most) return n;
    memmove(bytes + at + size, bytes + at, n - at);
    memcpy(bytes + at, from, size);
    return n + size;
}
