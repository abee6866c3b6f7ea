/* Any bytes as a vocabulary file of any kind, plain or gzipped; one that loads must encode, twice
 * to the same ids, and decode. */
#include "data/io/utf8.h"
#include "data/text/tokenizer.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

static void check_text(const char *text) {
    for (size_t i = 0, n = strlen(text); i < n;) {
        uint32_t cp;
        i += utf8_decode((const unsigned char *)text + i, n - i, &cp);
        assert(cp != UTF8_INVALID);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    static const char caption[] =
        "A photo of a cat's café, 3 你好 <end_of_text> [SEP] aaaaaaaabbbbbb \xFF";
    int32_t ids[200], again[200];
    Error err = {""};
    Tokenizer *tokenizer = tokenizer_open_bytes(bytes, n, &err);
    if (tokenizer == NULL) {
        assert(err.text[0] != 0);
        return 0;
    }
    TokenizerCache *cache = tokenizer_cache_new(tokenizer);
    size_t count = tokenizer_encode(cache, caption, strlen(caption), COUNT(ids), ids);
    assert(count >= tokenizer->added && count <= COUNT(ids));
    for (size_t i = 0; i < count; i++)
        assert(ids[i] >= 0 && (size_t)ids[i] < tokenizer->vocab_size);
    assert(tokenizer_encode(cache, caption, strlen(caption), COUNT(again), again) == count);
    assert(memcmp(ids, again, count * sizeof *ids) == 0);
    char *text = tokenizer_decode(tokenizer, ids, count);
    check_text(text);
    free(text);
    tokenizer_cache_free(cache);
    tokenizer_close(tokenizer);
    return 0;
}
