/* Any bytes as a vocabulary file, plain or gzipped; one that loads must encode and decode. */
#include "data/text/tokenizer.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    static const char caption[] = "A photo of a cat's café, 3 你好 <end_of_text> aaaaaaaabbbbbb";
    int32_t ids[200];
    Error err = {""};
    Tokenizer *tokenizer = tokenizer_open_bytes(bytes, n, &err);
    if (tokenizer == NULL) {
        assert(err.text[0] != 0);
        return 0;
    }
    TokenizerCache *cache = tokenizer_cache_new(tokenizer);
    size_t count = tokenizer_encode(cache, caption, strlen(caption), COUNT(ids), ids);
    assert(count >= 2 && ids[count - 1] == tokenizer->end);
    char *text = tokenizer_decode(tokenizer, ids, count);
    assert(strstr(text, "a photo of a cat") != NULL);
    free(text);
    tokenizer_cache_free(cache);
    tokenizer_close(tokenizer);
    return 0;
}
