/* Any bytes as a vocabulary file, plain or gzipped; one that loads has to encode and decode. */
#include "data/text/bpe.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    static const char caption[] = "A photo of a cat's café, 3 你好 <end_of_text> aaaaaaaabbbbbb";
    int32_t ids[200];
    Error err = {""};
    Bpe *bpe = bpe_load_bytes(bytes, n, &err);
    if (bpe == NULL) {
        assert(err.text[0] != 0);
        return 0;
    }
    BpeCache *cache = bpe_cache_new(bpe);
    size_t count = bpe_encode(bpe, cache, caption, strlen(caption), COUNT(ids), ids);
    assert(count >= 2 && ids[count - 1] == bpe_end_id(bpe));
    char *text = bpe_decode(bpe, ids, count);
    assert(strstr(text, "a photo of a cat") != NULL);
    free(text);
    bpe_cache_free(cache);
    bpe_free(bpe);
    return 0;
}
