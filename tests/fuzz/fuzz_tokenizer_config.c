/* Any JSON as the tokenizer_config.json beside a vocabulary (behind a zero byte; else a small one):
 * refused, or a tokenizer whose captions are within the vocabulary. */
#include "data/text/tokenizer.h"
#include "tests/fuzz/work_folder.h"

#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    static const char caption[] = "A photo of a cat's café, 3 你好 <eos> [SEP]";
    const uint8_t *end = memchr(bytes, 0, n);
    if (!end) return 0;
    size_t first = (size_t)(end - bytes);
    char *config = work_file("tokenizer_config.json", bytes, first),
         *vocab = work_file("vocab", end + 1, n - first - 1);
    Error err = {""};
    Tokenizer *t = tokenizer_open(vocab, &err);
    if (!t && !*err.text) abort();
    if (t) {
        TokenizerCache *cache = tokenizer_cache_new(t);
        int32_t ids[64];
        size_t count = tokenizer_encode(cache, caption, strlen(caption), COUNT(ids), ids);
        if (count > COUNT(ids)) abort();
        for (size_t i = 0; i < count; i++)
            if (ids[i] < 0 || (size_t)ids[i] >= t->vocab_size) abort();
        tokenizer_cache_free(cache);
        tokenizer_close(t);
    }
    FREE_ALL(config, vocab);
    return 0;
}
