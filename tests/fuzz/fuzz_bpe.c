/* Any bytes as a caption: cleaned, split, merged, decoded. The vocabulary is learned from a few
 * captions at start. */
#include "data/text/bpe_train.h"
#include "data/text/codepoints.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

static Tokenizer *tokenizer;
static TokenizerCache *cache;

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc, (void)argv;
    static const char captions[] =
        "a photo of a cat\na photo of a small dog\nthe start of the text\nschön, it's schön\n"
        "the cat's 3 dogs & 12 cats\n你好 你好\n...... ------ \"\"\"\n";
    char in[] = "/tmp/fuzz-captions-XXXXXX", out[] = "/tmp/fuzz-vocab-XXXXXX";
    int fd = mkstemp(in);
    assert(fd >= 0 && write(fd, captions, sizeof captions - 1) == sizeof captions - 1);
    close(fd);
    fd = mkstemp(out);
    assert(fd >= 0);
    close(fd);
    Error err;
    log_quiet(true);
    if (!bpe_train(in, 1000, out, &err) || (tokenizer = tokenizer_open(out, &err)) == NULL)
        die("%s", err.text);
    unlink(in);
    unlink(out);
    cache = tokenizer_cache_new(tokenizer);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    enum { LONG = 4096 };
    static int32_t ids[LONG], cut[77];
    size_t count = tokenizer_encode(cache, (const char *)bytes, n, LONG, ids);
    assert(count >= 2 && count <= LONG && ids[0] == tokenizer->start);
    assert(ids[count - 1] == tokenizer->end);
    size_t cut_count = tokenizer_encode(cache, (const char *)bytes, n, COUNT(cut), cut);
    assert(cut_count == size_min(count, COUNT(cut)));
    assert(memcmp(ids, cut, (cut_count - 1) * sizeof *ids) == 0);

    char *text = tokenizer_decode(tokenizer, ids, count);
    uint32_t cp;
    for (size_t i = 0, length = strlen(text); i < length;) {
        i += utf8_decode((const unsigned char *)text + i, length - i, &cp);
        assert(cp != UTF8_INVALID);
    }
    free(text);
    return 0;
}
