/* Any bytes as a pickle: refused, or plain data whose parts are as their kind says. */
#include "data/tensors/pickle.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    Pickle p;
    Error err;
    if (!pickle_parse(&p, bytes, n, &err)) return 0;
    size_t values = 0;
    for (const PickleValue *v = p.all; v; v = v->next, values++) {
        bool text = v->kind == PICKLE_STRING || v->kind == PICKLE_NAME || v->kind == PICKLE_STORAGE;
        if (text != (v->text != NULL) || (v->kind == PICKLE_DICT && v->count % 2)) abort();
        if (v->kind == PICKLE_TENSOR && v->items[2]->count != v->items[3]->count) abort();
    }
    if (!p.root || values > n) abort();
    pickle_get(p.root, "state_dict");
    pickle_free(&p);
    return 0;
}
