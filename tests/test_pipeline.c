/* Tokenizers as data: ids of sentencepiece and tokenizers, for small models of every kind
 * (tests/golden/make_tokenizers.py); damaged and foreign files; settings; contexts. */
#include "data/io/file.h"
#include "data/text/pipeline.h"
#include "tests/support.h"
#include "tests/support_data.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FOLDER "tests/golden/tokenizers/"

static Tokenizer *load_text(const char *text) {
    Error err;
    Tokenizer *t = tokenizer_open_bytes(text, strlen(text), &err);
    if (t == NULL) fail_msg("%s", err.text);
    return t;
}

/* ---- golden ids ---- */

typedef struct Golden {
    const char *name;
    TokenizerCache *cache;
    const char *ids, *end; /* what is left of the file of hashes */
    size_t compared;
} Golden;

static void check_ids(void *context, const char *caption, size_t n, uint32_t clean, uint32_t clip) {
    (void)clean, (void)clip;
    static int32_t ids[1 << 16];
    Golden *g = context;
    uint32_t want;
    assert_true(g->end - g->ids >= 4);
    memcpy(&want, g->ids, sizeof want);
    g->ids += sizeof want;
    if (want == 0) return;
    size_t count = tokenizer_encode(g->cache, caption, n, COUNT(ids), ids);
    if (golden_hash(ids, count * sizeof *ids) != want)
        fail_msg("%s: '%s' has other ids than the library's", g->name, caption);
    g->compared++;
}

static void check_texts(Golden *g) {
    char *file = test_read_file(FOLDER "texts.txt", NULL), *rest = file, *line;
    while ((line = strsep(&rest, "\n")) != NULL && rest != NULL)
        check_ids(g, line, strlen(line), 0, 0);
    assert_ptr_equal(g->ids, g->end);
    free(file);
}

static void check_file(const char *name) {
    char *path = xasprintf(FOLDER "%s", name), *ids_path = xasprintf(FOLDER "%s.ids", name);
    Tokenizer *t = test_tokenizer(path);
    size_t size;
    char *ids = test_read_file(ids_path, &size);
    Golden g = {name, tokenizer_cache_new(t), ids, ids + size, 0};
    golden_captions(CAPTIONS_REAL, check_ids, &g);
    golden_captions(CAPTIONS_ODD, check_ids, &g);
    check_texts(&g);
    assert_true(g.compared >= 2600);
    g.ids = ids; /* again, with a full cache of words */
    golden_captions(CAPTIONS_REAL, check_ids, &g);
    tokenizer_cache_free(g.cache);
    tokenizer_close(t);
    free(ids);
    free(path);
    free(ids_path);
}

static void test_golden(void **state) {
    (void)state;
    struct dirent **list;
    int n = scandir(FOLDER, &list, NULL, alphasort), files = 0;
    assert_true(n > 0);
    for (int i = 0; i < n; i++) {
        const char *dot = strrchr(list[i]->d_name, '.');
        bool texts = strcmp(list[i]->d_name, "texts.txt") == 0;
        if (list[i]->d_name[0] != '.' && strcmp(dot, ".ids") != 0 && !texts)
            check_file(list[i]->d_name), files++;
        free(list[i]);
    }
    free(list);
    assert_int_equal(files, 18);
}

/* ---- contexts ---- */

/* Ids around a caption's own stay when it is cut. */
static void test_context(void **state) {
    (void)state;
    Tokenizer *t = test_tokenizer(FOLDER "vocab.txt");
    TokenizerCache *c = tokenizer_cache_new(t);
    int32_t all[64], cut[64];
    const char *caption = "a photo of a cat and a dog [SEP] 你好";
    size_t n = tokenizer_encode(c, caption, strlen(caption), 64, all);
    assert_true(n > 10);
    assert_int_equal(all[0], t->start);
    assert_int_equal(all[n - 1], t->end);
    for (size_t context = 2; context <= n; context++) {
        assert_int_equal(tokenizer_encode(c, caption, strlen(caption), context, cut), context);
        assert_memory_equal(cut, all, (context - 1) * sizeof *cut);
        assert_int_equal(cut[context - 1], t->end);
    }
    assert_int_equal(tokenizer_encode(c, caption, strlen(caption), 1, cut), 1);
    assert_int_equal(tokenizer_encode(c, "", 0, 64, cut), t->added);
    tokenizer_cache_free(c);
    tokenizer_close(t);
}

/* Sums of scores depend on what is before a word: with two best paths, also its ids do. The same
 * text must get the same ids with a full and with an empty cache. */
static void test_cache(void **state) {
    (void)state;
    static int32_t a[1 << 14], b[1 << 14];
    Tokenizer *t = test_tokenizer(FOLDER "unigram.model.gz");
    TokenizerCache *used = tokenizer_cache_new(t);
    char text[4096];
    for (int i = 0; i < 300; i++) {
        size_t n = 0;
        for (int k = 0; k < 60 + i; k++)
            n += (size_t)sprintf(
                text + n, "%s",
                (const char *[]){"haha", "aa", "ab ", " o", "aaa"}[(k * k + i) % 5]);
        TokenizerCache *fresh = tokenizer_cache_new(t);
        size_t count = tokenizer_encode(fresh, text, n, COUNT(a), a);
        assert_int_equal(tokenizer_encode(used, text, n, COUNT(b), b), count);
        assert_memory_equal(a, b, count * sizeof *a);
        tokenizer_cache_free(fresh);
    }
    tokenizer_cache_free(used);
    tokenizer_close(t);
}

/* ---- decoding ---- */

static void test_decode(void **state) {
    (void)state;
    static const char *const files[] = {"unigram_bytes.model", "bpe_bytes.model", "gemma.json.gz",
                                        "vocab.txt", "byte_prefix_digits.json.gz"};
    static const char *const wanted[] = {"a photo of cats 12", "a photo of cats 12",
                                         "a photo of cats 12", "[CLS] a photo of cats 12 [SEP]",
                                         " a photo of cats 12"};
    for (size_t i = 0; i < COUNT(files); i++) {
        char *path = xasprintf(FOLDER "%s", files[i]);
        Tokenizer *t = test_tokenizer(path);
        TokenizerCache *c = tokenizer_cache_new(t);
        int32_t ids[64];
        size_t n = tokenizer_encode(c, "a photo of cats 12", 18, 64, ids);
        char *text = tokenizer_decode(t, ids, n);
        if (i == 4) { /* digits and its added token cat are split off */
            assert_non_null(strstr(text, " photo of "));
        } else {
            assert_string_equal(text, wanted[i]);
        }
        free(text);
        tokenizer_cache_free(c);
        tokenizer_close(t);
        free(path);
    }
}

/* ---- refused files ---- */

static void assert_refused(const char *bytes, size_t n, const char *needle) {
    Error err = {""};
    Tokenizer *t = tokenizer_open_bytes(bytes, n, &err);
    if (t != NULL || strstr(err.text, needle) == NULL)
        fail_msg("not refused with '%s' but: '%s'", needle, err.text);
}

static void test_damaged_model(void **state) {
    (void)state;
    size_t n;
    char *file = test_read_file(FOLDER "bpe_bytes.model", &n);
    Error err;
    for (size_t cut = 60; cut < n; cut += 97) {
        Tokenizer *t = tokenizer_open_bytes(file, cut, &err);
        assert_null(t);
    }
    assert_refused(file, n - 1, "damaged or cut off");
    char *piece = memmem(file, n, "<0x41>", 6);
    assert_non_null(piece);
    memcpy(piece, "<0x42>", 6);
    assert_refused(file, n, "is no byte, or one that another piece is");
    free(file);
}

static void test_foreign_json(void **state) {
    (void)state;
    static const struct {
        const char *file, *needle;
    } rows[] = {
        {"{", "line 1"},
        {"{}", "it has no object model"},
        {"{\"model\": {\"type\": \"Word\"}}", "the type Word is not supported"},
        {"{\"model\": {\"type\": \"BPE\", \"vocab\": {}, \"merges\": [], \"extra\": 1}}",
         "model.extra: this field is not supported"},
        {"{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": []}, \"other\": 1}",
         "other: this field is not supported"},
        {"{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"b\": 1}, \"merges\": [\"a b\"]}}",
         "'ab' or a part of it is not in the vocabulary"},
        {"{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [\"a\"]}}",
         "an entry is not two symbols"},
        {"{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 99}, \"merges\": []}}",
         "out of range"},
        {"{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [], \"dropout\": "
         "0.1}}",
         "model.dropout"},
        {"{\"model\": {\"type\": \"Unigram\", \"vocab\": [[\"a\", 0]], \"unk_id\": 4}}",
         "model.unk_id"},
        {"{\"model\": {\"type\": \"WordPiece\", \"vocab\": {\"a\": 0}}}",
         "model.unk_token: is missing"},
        {"{\"normalizer\": {\"type\": \"Nmt\"}, \"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": "
         "0}, "
         "\"merges\": []}}",
         "normalizer: the type Nmt is not supported"},
        {"{\"normalizer\": {\"type\": \"Strip\", \"strip_up\": true}, \"model\": {\"type\": "
         "\"BPE\", "
         "\"vocab\": {\"a\": 0}, \"merges\": []}}",
         "Strip.strip_up: this field is not supported"},
        {"{\"normalizer\": {\"type\": \"Precompiled\", \"precompiled_charsmap\": \"AAAA\"}, "
         "\"model\": "
         "{\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": []}}",
         "charsmap of 3 bytes is too short"},
        {"{\"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"Regex\": \"x+\"}, "
         "\"behavior\": "
         "\"Isolated\", \"invert\": false}, \"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}, "
         "\"merges\": []}}",
         "Split.pattern"},
        {"{\"added_tokens\": [{\"id\": 1, \"content\": \"x\", \"single_word\": true}], \"model\": "
         "{\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": []}}",
         "single_word of 'x' is not supported"},
    };
    for (size_t i = 0; i < COUNT(rows); i++)
        assert_refused(rows[i].file, strlen(rows[i].file), rows[i].needle);
}

static void test_wrong_lists(void **state) {
    (void)state;
    assert_refused("a\n[UNK]\n[CLS]\n", 14, "no line [UNK], [CLS] or [SEP]");
    assert_refused("a\n[UNK]\n[CLS]\n[SEP]\na\n", 22, "it has 'a' twice");
    tokenizer_close(load_text("a\r\n[UNK]\r\n[CLS]\r\n[SEP]\r\n"));
}

/* ---- settings ---- */

static void put(const char *folder, const char *name, const char *text) {
    char *path = xasprintf("%s/%s", folder, name);
    test_write_file(path, text, strlen(text));
    free(path);
}

static size_t encode(const char *path, const TokenizerRules *rules, const char *text, int32_t *ids,
                     Tokenizer *seen) {
    Error err;
    Tokenizer *t = tokenizer_open_rules(path, rules, &err);
    if (t == NULL) fail_msg("%s", err.text);
    TokenizerCache *c = tokenizer_cache_new(t);
    size_t n = tokenizer_encode(c, text, strlen(text), 64, ids);
    *seen = *t;
    tokenizer_cache_free(c);
    tokenizer_close(t);
    return n;
}

/* Frames, padding and cleaning of tokenizer_config.json and of the model's configuration. */
static void test_settings(void **state) {
    (void)state;
    const char *folder = test_path("siglip"), *model = test_path("siglip/spiece.model");
    const TokenizerRules none = {TEXT_CLEAN_NONE, false},
                         canonical = {TEXT_CLEAN_CANONICALIZE, false};
    int32_t plain[64], ids[64];
    Tokenizer t;
    assert_int_equal(mkdir(folder, 0777), 0);
    assert_true(file_copy(FOLDER "unigram.model.gz", model));
    size_t n = encode(model, &none, "a photo of a dog", plain, &t);
    assert_int_equal(t.added, 0);
    put(folder, TOKENIZER_CONFIG,
        "{\"tokenizer_class\": \"T5TokenizerFast\", \"pad_token\": {\"content\": \"</s>\"}}");
    assert_int_equal(encode(model, &canonical, "A_photo, of a... DOG!", ids, &t), n + 1);
    assert_memory_equal(ids, plain, n * sizeof *ids);
    assert_int_equal(ids[n], 2);
    assert_int_equal(t.pad, 2);
    put(folder, TOKENIZER_CONFIG,
        "{\"tokenizer_class\": \"SiglipTokenizer\", \"pad_token\": \"</s>\"}");
    assert_int_equal(encode(model, &none, "A photo, of a... DOG!", ids, &t), n + 1);
    assert_memory_equal(ids, plain, n * sizeof *ids);
    put(folder, TOKENIZER_CONFIG,
        "{\"tokenizer_class\": \"GemmaTokenizer\", \"bos_token\": \"<s>\", \"add_eos_token\": "
        "true, "
        "\"eos_token\": \"</s>\", \"pad_token\": \"<unk>\"}");
    assert_int_equal(encode(model, &none, "a photo of a dog", ids, &t), n + 2);
    assert_int_equal(ids[0], 1);
    assert_int_equal(t.pad, 0);
    put(folder, TOKENIZER_CONFIG, "{\"pad_token\": \"<absent>\"}");
    Error err;
    assert_null(tokenizer_open(model, &err));
    assert_non_null(strstr(err.text, "pad_token: '<absent>' is not in the vocabulary"));
}

/* White space beside an added token is whole characters: the last byte of an a with grave accent
 * (C3 A0) is also that of a no-break space (C2 A0). */
static void test_white_characters(void **state) {
    (void)state;
    Tokenizer *t =
        load_text("{\"added_tokens\": [{\"id\": 4, \"content\": \"<mask>\", \"special\": "
                  "true, \"lstrip\": true, \"rstrip\": true, \"single_word\": false, "
                  "\"normalized\": false}], \"normalizer\": {\"type\": \"NFC\"}, "
                  "\"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false, "
                  "\"use_regex\": false}, \"model\": {\"type\": \"BPE\", \"merges\": [], "
                  "\"vocab\": {\"v\": 0, \"\u00c3\": 1, \"\u0142\": 2, \"\u00c2\": 3}}}");
    static const struct {
        const char *text;
        size_t n;
        int32_t ids[6];
    } cases[] = {{"v\u00e0<mask>\u00e0", 6, {0, 1, 2, 4, 1, 2}},
                 {"v\u00a0 <mask>\u2003\u00a0v", 3, {0, 4, 0}},
                 {"\u00a0<mask>\u00a0", 1, {4}}};
    TokenizerCache *cache = tokenizer_cache_new(t);
    for (size_t i = 0; i < COUNT(cases); i++) {
        int32_t ids[16];
        size_t n = tokenizer_encode(cache, cases[i].text, strlen(cases[i].text), COUNT(ids), ids);
        assert_int_equal(n, cases[i].n);
        assert_memory_equal(ids, cases[i].ids, n * sizeof *ids);
    }
    tokenizer_cache_free(cache);
    tokenizer_close(t);
}

static void test_bert_settings(void **state) {
    (void)state;
    const char *folder = test_path("bert"), *vocab = test_path("bert/vocab.txt");
    const TokenizerRules none = {TEXT_CLEAN_NONE, false}, strip = {TEXT_CLEAN_WHITESPACE, true};
    int32_t lower[64], ids[64];
    Tokenizer t;
    assert_int_equal(mkdir(folder, 0777), 0);
    assert_true(file_copy(FOLDER "vocab.txt", vocab));
    size_t n = encode(vocab, &none, "A Cat", lower, &t);
    assert_int_equal(encode(vocab, &none, "a cat", ids, &t), n);
    assert_memory_equal(ids, lower, n * sizeof *ids);
    assert_int_equal(encode(vocab, &strip, "a&nbsp;cat", ids, &t), n);
    assert_int_equal(ids[n - 1], 0);
    assert_memory_equal(ids, lower, (n - 1) * sizeof *ids);
    put(folder, TOKENIZER_CONFIG,
        "{\"tokenizer_class\": \"BertTokenizer\", \"do_lower_case\": false}");
    size_t cased = encode(vocab, &none, "A Cat", ids, &t);
    assert_true(cased != n || memcmp(ids, lower, n * sizeof *ids) != 0);
}

static void test_identities(void **state) {
    (void)state;
    const char *path = test_path("identity.txt");
    assert_true(file_copy(FOLDER "vocab.txt", path));
    Error err;
    uint64_t id[3];
    for (int i = 0; i < 3; i++) {
        TokenizerRules rules = {i == 1 ? TEXT_CLEAN_LOWER : TEXT_CLEAN_NONE, false};
        if (i == 2) test_write_file(path, "[PAD]\n[UNK]\n[CLS]\n[SEP]\nb\n", 26);
        Tokenizer *t = tokenizer_open_rules(path, &rules, &err);
        assert_non_null(t);
        id[i] = tokenizer_identity(t);
        tokenizer_close(t);
    }
    assert_true(id[0] != id[1] && id[0] != id[2] && id[1] != id[2]);
    assert_string_equal(tokenizer_file_name(FOLDER "vocab.txt"), "vocab.txt");
    assert_string_equal(tokenizer_file_name(FOLDER "bpe_bytes.model"), "spiece.model");
    assert_string_equal(tokenizer_file_name(FOLDER "gemma.json.gz"), "tokenizer.json");
    assert_string_equal(tokenizer_file_name("tests/golden/openclip/vocab.txt"), "vocab.bpe");
}

/* ---- the program ---- */

/* Ids of one caption by `clipc tok`, with these options. */
static char *tok(const char *options) {
    return test_clipc(0, "tok %s <%s", options, test_path("caption.txt"));
}

static void test_checkpoint_folder(void **state) {
    (void)state;
    static const char config[] =
        "{\"model_cfg\": {\"embed_dim\": 8, \"vision_cfg\": {\"timm_model_name\": \"vit_x\"}, "
        "\"text_cfg\": {\"context_length\": 6, \"vocab_size\": 4000, \"hf_tokenizer_name\": "
        "\"x/y\", \"tokenizer_kwargs\": {\"clean\": \"canonicalize\"}}}}";
    put(test_dir(), "caption.txt", "A_photo of 2 cats, and of many other things!\n");
    const char *folder = test_path("folder");
    assert_int_equal(mkdir(folder, 0777), 0);
    put(folder, "open_clip_config.json", config);
    char *options = xasprintf("--checkpoint %s", folder);
    char *missing = test_clipc(1, "tok %s <%s", options, test_path("caption.txt"));
    test_says(missing, "no tokenizer.json, spiece.model or vocab.txt");
    assert_true(file_copy(FOLDER "t5.json.gz", test_path("folder/tokenizer.json")));
    put(test_dir(), "caption.txt", "a photo of 2 cats and of many other things\n");
    char *want = tok("--context-length 6 --vocab " FOLDER "t5.json.gz");
    put(test_dir(), "caption.txt", "A_photo of 2 cats, and of many other things!\n");
    char *got = tok(options);
    assert_string_equal(got, want);
    free(missing);
    free(want);
    free(got);
    free(options);
}

/* A run's checkpoint has the tokenizer's files, and works without others. */
static void test_checkpoint_keeps(void **state) {
    (void)state;
    static const char model[] =
        "{\"embed_dim\": 8, \"vision_cfg\": {\"image_size\": 32, \"patch_size\": 16, \"width\": 8, "
        "\"layers\": 1, \"head_width\": 8}, \"text_cfg\": {\"context_length\": 12, \"vocab_size\": "
        "4000, \"width\": 8, \"heads\": 1, \"layers\": 1, \"hf_tokenizer_name\": \"x/y\", "
        "\"tokenizer_kwargs\": {\"strip_sep_token\": true}}}";
    const char *source = test_path("source");
    assert_int_equal(mkdir(source, 0777), 0);
    put(source, "model.json", model);
    put(source, TOKENIZER_CONFIG,
        "{\"tokenizer_class\": \"BertTokenizer\", \"do_lower_case\": false}");
    assert_true(file_copy(FOLDER "vocab.txt", test_path("source/vocab.txt")));
    free(test_clipc(
        0,
        "train --model %s/model.json --vocab %s/vocab.txt --train-data "
        "tests/golden/openclip/pairs.tsv --batch-size 4 --max-steps 1 --workers 1 --logs %s "
        "--name run",
        source, source, test_dir()));
    const char *latest = test_path("run/checkpoints/latest");
    char *options = xasprintf("--checkpoint %s", latest),
         *copied = xasprintf("%s/vocab.txt", latest);
    char *a = test_read_file(copied, NULL), *b = test_read_file(FOLDER "vocab.txt", NULL);
    assert_string_equal(a, b);
    put(test_dir(), "caption.txt", "A Photo of a cat\n");
    char *got = tok(options);
    free(test_clipc(0, "embed %s --text %s --out %s", options, test_path("caption.txt"),
                    test_path("x.npy")));
    int32_t ids[64];
    Tokenizer t;
    const TokenizerRules rules = {TEXT_CLEAN_WHITESPACE, true};
    size_t n = encode(test_path("source/vocab.txt"), &rules, "A Photo of a cat", ids, &t), at = 0;
    char want[256];
    for (size_t i = 0; i < n; i++) at += (size_t)sprintf(want + at, "%s%d", i ? " " : "", ids[i]);
    strcpy(want + at, "\n");
    assert_string_equal(got, want);
    free(got);
    free(a);
    free(b);
    free(options);
    free(copied);
}

static bool same_files(const char *a, const char *b) {
    size_t n, m;
    char *x = test_read_file(a, &n), *y = test_read_file(b, &m);
    bool same = n == m && !memcmp(x, y, n);
    free(x);
    free(y);
    return same;
}

/* A text tower that attends to its padding trains and embeds with the tokenizer's. */
static void test_padding_is_read(void **state) {
    (void)state;
    static const char model[] =
        "{\"embed_dim\": 8, \"vision_cfg\": {\"image_size\": 32, \"patch_size\": 16, \"width\": 8, "
        "\"layers\": 1, \"head_width\": 8}, \"text_cfg\": {\"context_length\": 48, \"vocab_size\": "
        "4000, \"width\": 8, \"heads\": 1, \"layers\": 1, \"hf_tokenizer_name\": \"x/y\", "
        "\"no_causal_mask\": true, \"pool_type\": \"last\"}}";
    static const char *const pads[] = {"[PAD]", "[UNK]"};
    char *vocab[2], *weights[2];
    put(test_dir(), "caption.txt", "a photo of a cat\n");
    for (size_t i = 0; i < 2; i++) {
        char *folder = xasprintf("%s/pads%zu", test_dir(), i);
        assert_int_equal(mkdir(folder, 0777), 0);
        put(folder, "model.json", model);
        char *config = xasprintf("{\"pad_token\": \"%s\"}", pads[i]);
        put(folder, TOKENIZER_CONFIG, config);
        vocab[i] = xasprintf("%s/vocab.txt", folder);
        assert_true(file_copy(FOLDER "vocab.txt", vocab[i]));
        Tokenizer *t = test_tokenizer(vocab[i]);
        assert_int_equal(t->pad != 0, i);
        tokenizer_close(t);
        free(test_clipc(0,
                        "train --model %s/model.json --vocab %s --train-data "
                        "tests/golden/openclip/pairs.tsv --batch-size 4 --max-steps 1 --workers 1 "
                        "--lr 0.01 --warmup 0 --device cpu --precision fp32 --logs %s --name pads",
                        folder, vocab[i], folder));
        weights[i] = xasprintf("%s/pads/checkpoints/latest/open_clip_model.safetensors", folder);
        free(config);
        free(folder);
    }
    assert_false(same_files(weights[0], weights[1]));
    for (size_t i = 0; i < 2; i++)
        free(test_clipc(0, "embed --checkpoint %s --vocab %s --text %s --device cpu --out %s",
                        weights[0], vocab[i], test_path("caption.txt"),
                        test_path(i ? "1.npy" : "0.npy")));
    char *first = xstrdup(test_path("0.npy"));
    assert_false(same_files(first, test_path("1.npy")));
    for (size_t i = 0; i < 2; i++) {
        free(vocab[i]);
        free(weights[i]);
    }
    free(first);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),
        cmocka_unit_test(test_context),
        cmocka_unit_test(test_cache),
        cmocka_unit_test(test_decode),
        cmocka_unit_test(test_damaged_model),
        cmocka_unit_test(test_foreign_json),
        cmocka_unit_test(test_wrong_lists),
        cmocka_unit_test(test_settings),
        cmocka_unit_test(test_white_characters),
        cmocka_unit_test(test_bert_settings),
        cmocka_unit_test(test_checkpoint_folder),
        cmocka_unit_test(test_checkpoint_keeps),
        cmocka_unit_test(test_padding_is_read),
        cmocka_unit_test(test_identities),
    };
    return cmocka_run_group_tests_name("pipeline", tests, NULL, NULL);
}
