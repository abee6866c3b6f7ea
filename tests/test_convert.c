/* clipc ckpt convert, mix, average, diff: output equals input in every format and type; no file is
 * overwritten, and no partial file stays. */
#include "tests/support.h"
#include "tests/support_data.h"
#include "tests/support_model.h"
#include "data/text/tokenizer.h"
#include "data/tensors/npy.h"
#include "train/checkpoint.h"
#include "data/io/folder.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define GOLDEN "tests/golden/formats/"
#define VOCAB "--vocab " GOLDEN "vocab.txt"

static void clipc(int want, const char *needle, const char *args) {
    char *text = test_clipc(want, "%s", args);
    test_says(text, needle);
    free(text);
}

/* A formatted string that stays valid for 4 further calls. */
static char *line(const char *fmt, ...) PRINTF_LIKE(1, 2);
static char *line(const char *fmt, ...) {
    static char text[4][2048];
    static unsigned next;
    char *out = text[next++ % COUNT(text)];
    va_list list;
    va_start(list, fmt);
    vsnprintf(out, sizeof text[0], fmt, list);
    va_end(list);
    return out;
}

static void test_there_and_back(void **state) {
    (void)state;
    static const char *const formats[] = {"open_clip", "hf", "safetensors", "pt"};
    static const char *const types[] = {"fp32", "fp16", "bf16"};
    for (size_t i = 0; i < COUNT(formats); i++)
        for (size_t j = 0; j < COUNT(types); j++) {
            const char *out = test_path(line("%s-%s", formats[i], types[j]));
            clipc(0, "written",
                  line("ckpt convert " GOLDEN "script.pt --model " GOLDEN "model.json " VOCAB
                       " --to %s --dtype %s --out %s",
                       formats[i], types[j], out));
            clipc(0, "0 of 38 tensors differ", line("ckpt diff " GOLDEN "plain.pt %s", out));
            clipc(0, j == 0 ? "F32" : j == 1 ? "F16" : "BF16", line("ckpt info %s", out));
        }
    clipc(0, "written", line("ckpt convert " GOLDEN "towers --to pt --out %s", test_path("x.pt")));
    clipc(0, "0 of 61 tensors differ", line("ckpt diff " GOLDEN "towers %s", test_path("x.pt")));
    clipc(1, "no place for no_ln_pre",
          line("ckpt convert " GOLDEN "towers --to hf --out %s", test_path("x")));
    /* the architecture, preprocessing and vocabulary went along */
    ClipConfig a, b;
    clip_config_load(&a, GOLDEN "open_clip");
    static const char *const folders[] = {"open_clip-fp32", "hf-bf16"};
    for (size_t i = 0; i < COUNT(folders); i++) {
        clip_config_load(&b, test_path(folders[i]));
        assert_memory_equal(&a.image, &b.image, sizeof a.image);
        assert_memory_equal(&a.text, &b.text, sizeof a.text);
        assert_int_equal(b.image.activation, ACTIVATION_QUICK_GELU);
        assert_memory_equal(&a.eval_transform, &b.eval_transform, sizeof a.eval_transform);
        clip_config_free(&b);
        free(test_clipc(
            0, "embed --checkpoint %s --precision fp32 --text " GOLDEN "captions.txt --out %s",
            test_path(folders[i]), test_path("texts.npy")));
        size_t n, E;
        float *x = read_npy(test_path("texts.npy"), &n, &E);
        float *y = read_npy(GOLDEN "texts.npy", &n, &E);
        for (size_t k = 0; k < n * E; k++) assert_near((double)x[k], (double)y[k], 1e-6);
        free(x);
        free(y);
    }
    clip_config_free(&a);
    json_t *hf = json_load_file(test_path("hf-bf16/config.json"), 0, NULL);
    assert_string_equal(json_string_value(json_object_get(hf, "torch_dtype")), "bfloat16");
    json_decref(hf);
}

static void test_tokenizer_files(void **state) {
    (void)state;
    const char *out = test_path("tokens");
    clipc(0, "written", line("ckpt convert " GOLDEN "hf " VOCAB " --to hf --out %s", out));
    json_t *ids = json_load_file(line("%s/vocab.json", out), 0, NULL);
    assert_int_equal(json_object_size(ids), 515);
    assert_int_equal(json_integer_value(json_object_get(ids, "!")), 0);
    assert_int_equal(json_integer_value(json_object_get(ids, "a</w>")), 320);
    assert_int_equal(json_integer_value(json_object_get(ids, "at</w>")), 512);
    assert_int_equal(json_integer_value(json_object_get(ids, "<|endoftext|>")), 514);
    json_decref(ids);
    char *merges = test_read_file(line("%s/merges.txt", out), NULL);
    assert_string_equal(merges, "#version: 0.2\na t</w>");
    free(merges);
    clipc(1, "has 569 entries, the model 515",
          line("ckpt convert " GOLDEN "hf --vocab tests/golden/openclip/vocab.txt --to hf --out %s",
               test_path("wrong")));
    assert_int_not_equal(access(test_path("wrong"), F_OK), 0);
    clipc(0, "gets no tokenizer",
          line("ckpt convert " GOLDEN "hf --to hf --out %s", test_path("without")));
}

/* A vocabulary with an empty last line, which counts: the written file means the same. */
static void test_vocabulary_round_trip(void **state) {
    (void)state;
    Error err;
    Tokenizer *a = tokenizer_open("tests/golden/openclip/vocab.txt", &err);
    assert_non_null(a);
    char *text = tokenizer_file_text(a, "#version: small");
    char *original = test_read_file("tests/golden/openclip/vocab.txt", NULL);
    assert_string_equal(text, original);
    free(text);
    free(original);
    tokenizer_close(a);
}

static void test_nothing_is_written_over(void **state) {
    (void)state;
    mkdir(test_path("safe"), 0777);
    mkdir(test_path("safe/folder"), 0777);
    test_write_file(test_path("safe/file"), "mine", 4);
    static const char *const formats[] = {"open_clip", "hf", "safetensors", "pt"};
    for (size_t i = 0; i < COUNT(formats); i++) {
        clipc(1, "exists already",
              line("ckpt convert " GOLDEN "hf --to %s --out %s", formats[i],
                   test_path("safe/folder")));
        clipc(
            1, "exists already",
            line("ckpt convert " GOLDEN "hf --to %s --out %s", formats[i], test_path("safe/file")));
    }
    assert_int_equal(test_entries(test_path("safe/folder"), false), 0);
    char *mine = test_read_file(test_path("safe/file"), NULL);
    assert_string_equal(mine, "mine");
    free(mine);
    /* leftovers of a killed run are removed; the parent folder is created */
    mkdir(test_path("safe/.tmp-new"), 0777);
    test_write_file(test_path("safe/.tmp-new/half"), "half", 4);
    clipc(0, "written", line("ckpt convert " GOLDEN "hf --out %s", test_path("safe/new")));
    assert_int_equal(test_entries(test_path("safe/new"), false), 2);
    assert_int_equal(test_entries(test_path("safe"), true), 0);
    clipc(0, "written", line("ckpt convert " GOLDEN "hf --out %s", test_path("safe/a/b/new")));
    /* a file that cannot be written whole */
    int code =
        system(line("(trap '' XFSZ; ulimit -f 8; %s ckpt convert " GOLDEN "hf --out %s) 2> %s",
                    test_program(), test_path("safe/large"), test_path("said")));
    assert_int_not_equal(code, 0);
    char *said = test_read_file(test_path("said"), NULL);
    test_says(said, "File too large");
    free(said);
    assert_int_not_equal(access(test_path("safe/large"), F_OK), 0);
    assert_int_equal(test_entries(test_path("safe"), true), 0);
}

/* The check comes long before the end: a file that appears meanwhile is kept too. */
static void test_place(void **state) {
    (void)state;
    mkdir(test_path("ready"), 0777);
    mkdir(test_path("taken"), 0777);
    test_write_file(test_path("taken-file"), "mine", 4);
    test_write_file(test_path("ready-file"), "new", 3);
    Error err;
    assert_false(folder_place(test_path("ready"), test_path("taken"), &err));
    test_says(err.text, "exists already");
    assert_false(folder_place(test_path("ready-file"), test_path("taken-file"), &err));
    assert_int_equal(access(test_path("ready"), F_OK), 0);
    char *mine = test_read_file(test_path("taken-file"), NULL);
    assert_string_equal(mine, "mine");
    free(mine);
    assert_true(folder_place(test_path("ready"), test_path("free"), &err));
    assert_false(folder_place(test_path("ready"), test_path("nowhere/free"), &err));
    test_says(err.text, "No such file");
}

static void make_named(const char *folder, const char *file) {
    mkdir(folder, 0777);
    test_write_file(line("%s/%s", folder, file), "x", 1);
}

/* `to` is `file` alone. */
static bool stands(const char *to, const char *file) {
    return !access(line("%s/%s", to, file), F_OK) && test_entries(to, false) == 1;
}

static void test_replace(void **state) {
    (void)state;
    for (int plain = 0; plain < 2; plain++) {
        const char *to = test_path(plain ? "plain" : "exchanged"), *from = test_path("from");
        char *old = xasprintf("%s.old", to);
        make_named(from, "first");
        assert_true(folder_replace(from, to));
        assert_true(stands(to, "first"));
        make_named(from, "second");
        make_named(old, "left from a crash");
        pid_t child = fork();
        if (!child) {
            Error err;
            if (plain && !test_deny(SYS_renameat2, EINVAL)) _exit(77);
            bool ok = folder_replace(from, to) && stands(to, "second");
            ok = ok && access(from, F_OK) && (!plain || access(old, F_OK));
            make_named(from, "third");
            ok = ok && !folder_place(from, to, &err) && strstr(err.text, "exists already");
            ok = ok && stands(to, "second") && stands(from, "third");
            ok = ok && folder_place(from, old = xasprintf("%s.free", to), &err);
            _exit(ok && stands(old, "third") ? 0 : 1);
        }
        int status;
        assert_int_equal(waitpid(child, &status, 0), child);
        free(old);
        if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
            printf("SKIP: test_replace: no seccomp filter can be set here\n");
            skip();
        }
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
}

/* ---- models that differ ---- */

static const char small[] =
    "{\"embed_dim\": 6, %s \"vision_cfg\": {\"image_size\": 8, \"layers\": 1, \"width\": 4, "
    "\"head_width\": 4, \"patch_size\": 4}, \"text_cfg\": {\"context_length\": 5, \"vocab_size\": "
    "11, \"width\": 4, \"heads\": 1, \"layers\": 1}}";

/* A checkpoint of the small model, initial values of this seed. */
static const char *save(const char *name, uint64_t seed, const char *extra) {
    ClipConfig c;
    Error err;
    char *json = line(small, extra);
    if (!clip_config_parse(&c, "small", json, strlen(json), &err)) fail_msg("%s", err.text);
    OptimState *o = state_new(kernels_open("ref", PRECISION_FP32), &c, NULL);
    params_init(o->p, seed);
    checkpoint_save(test_path("small"), name, o, &c, &(TrainState){0}, NULL);
    state_free(o);
    clip_config_free(&c);
    return test_path(line("small/%s", name));
}

static float element(const char *path, const char *name, size_t i) {
    Weights w;
    Error err;
    if (!weights_open(&w, path, &err)) fail_msg("%s", err.text);
    const Weight *found = weights_find(&w, name);
    assert_non_null(found);
    float x;
    weight_read(found, i, 1, &x);
    weights_close(&w);
    return x;
}

static void test_mix_and_average(void **state) {
    (void)state;
    char *a = strdup(save("a", 1, "")), *b = strdup(save("b", 2, "")),
         *c = strdup(save("c", 3, ""));
    const char *out = test_path("mixed");
    clipc(0, "written", line("ckpt mix %s %s --alpha 0.25 --out %s", a, b, out));
    static const char name[] = "visual.proj";
    for (size_t i = 0; i < 24; i++) {
        double x = (double)element(a, name, i), y = (double)element(b, name, i);
        assert_true(fabs(x - y) > 0);
        assert_true(element(out, name, i) == (float)(0.75 * x + 0.25 * y));
    }
    clipc(0, "written", line("ckpt mix %s %s --alpha 0 --out %s", a, b, test_path("is-a")));
    clipc(0, "written", line("ckpt mix %s %s --alpha 1 --out %s", a, b, test_path("is-b")));
    clipc(0, "0 of", line("ckpt diff %s %s", a, test_path("is-a")));
    clipc(0, "0 of", line("ckpt diff %s %s", b, test_path("is-b")));
    out = test_path("soup");
    clipc(0, "written", line("ckpt average %s %s %s --to safetensors --out %s", a, b, c, out));
    for (size_t i = 0; i < 24; i++) {
        double sum =
            (double)element(a, name, i) + (double)element(b, name, i) + (double)element(c, name, i);
        assert_near((double)element(out, name, i), sum / 3, 1e-7);
    }
    clipc(1, "visual.class_embedding is [4], the model needs [8]",
          line("ckpt mix " GOLDEN "hf %s --alpha 0.5 --out %s", a, test_path("never")));
    clipc(2, "--out is missing", line("ckpt mix %s %s", a, b));
    clipc(2, "two PATHs", line("ckpt mix %s --out x", a));
    clipc(2, "alpha", line("ckpt mix %s %s --alpha 1.5 --out x", a, b));
    free(a), free(b), free(c);
}

static void test_what_hf_has_no_place_for(void **state) {
    (void)state;
    const char *biased = save("biased", 1, "\"init_logit_bias\": -10,");
    clipc(1, "no place for a logit_bias",
          line("ckpt convert %s --to hf --out %s", biased, test_path("no")));
    clipc(0, "written", line("ckpt convert %s --out %s", biased, test_path("biased")));
    clipc(0, "0 of", line("ckpt diff %s %s", biased, test_path("biased")));
}

static void test_resized_on_the_way(void **state) {
    (void)state;
    char json[1024], *at;
    snprintf(json, sizeof json, small, "\"quick_gelu\": true,");
    at = strstr(json, "\"image_size\": 8");
    memcpy(at, "\"image_size\":20", 15);
    const char *model = test_path("larger.json"), *a = save("size", 4, "\"quick_gelu\": true,");
    test_write_file(model, json, strlen(json));
    clipc(0, "visual.positional_embedding resized from 5 to 26 positions",
          line("ckpt convert %s --model %s --to hf --out %s", a, model, test_path("larger")));
    Weights w;
    Error err;
    assert_true(weights_open(&w, test_path("larger"), &err));
    assert_int_equal(weights_find(&w, "visual.positional_embedding")->shape[0], 26);
    weights_close(&w);
}

static void test_diff(void **state) {
    (void)state;
    static const float x[4] = {1, 2, 2, NAN}, y[4] = {1, 2, 2.5f, NAN}, z[4] = {9, 2, 2, 0};
#define T(n, v, d)                                                                                 \
    { .name = n, .dtype = DTYPE_F32, .ndim = 1, .shape = {d}, .count = d, .data = v }
    const Tensor a[] = {T("same", x, 4),  T("little", x, 3), T("much", x, 3),
                        T("shape", x, 4), T("gone", x, 1),   T("nan", x, 4)};
    const Tensor b[] = {T("same", x, 4),  T("little", y, 3), T("much", z, 3),
                        T("shape", x, 3), T("come", x, 1),   T("nan", z, 4)};
    const char *p = test_path("p.safetensors"), *q = test_path("q.safetensors");
    write_tensors(p, a, COUNT(a));
    write_tensors(q, b, COUNT(b));
    char *text = test_clipc(1, "ckpt diff %s %s --json", p, q);
    json_t *root = json_loads(text, 0, NULL), *rows = json_object_get(root, "differences");
    assert_int_equal(json_integer_value(json_object_get(root, "tensors")), 7);
    assert_int_equal(json_integer_value(json_object_get(root, "different")), 6);
    static const char *const order[] = {"come", "gone", "nan", "shape", "much", "little", "same"};
    for (size_t i = 0; i < COUNT(order); i++)
        assert_string_equal(json_string_value(json_object_get(json_array_get(rows, i), "name")),
                            order[i]);
    const json_t *much = json_array_get(rows, 4);
    assert_near(json_number_value(json_object_get(much, "max")), 8, 0);
    assert_near(json_number_value(json_object_get(much, "relative")), 8.0 / 3, 1e-8);
    assert_near(json_number_value(json_object_get(json_array_get(rows, 5), "relative")), 0.5 / 3,
                1e-8);
    json_decref(root);
    free(text);
    text = test_clipc(1, "ckpt diff %s %s --top 4", p, q);
    test_says(text, "only in A");
    test_says(text, "only in B");
    test_says(text, "another shape");
    test_says(text, "2 more, no worse");
    assert_null(strstr(text, "little"));
    free(text);
    clipc(0, "0 of 6 tensors differ", line("ckpt diff %s %s", p, p));
    write_tensors(p, a + 1, 1);
    write_tensors(q, b + 1, 1);
    clipc(1, "1 of 1 tensors differ", line("ckpt diff %s %s --tolerance 0.16", p, q));
    clipc(0, "0 of 1 tensors differ", line("ckpt diff %s %s --tolerance 0.17", p, q));
    clipc(1, "no such file", line("ckpt diff %s %s-none", p, q));
}

/* ---- rounding ---- */

/* Every half is preserved; values between are rounded to nearest, ties to even. */
static void check_rounding(Dtype d, uint16_t last) {
    for (uint32_t h = 0; h < last; h++) {
        uint16_t pair[2] = {(uint16_t)h, (uint16_t)(h + 1)}, got;
        float x[2];
        Tensor t = {.dtype = d, .ndim = 1, .shape = {2}, .count = 2, .data = pair};
        assert_true(tensor_read_f32(&t, 0, 2, x));
        float middle = (float)(((double)x[0] + (double)x[1]) / 2);
        const float values[] = {x[0], nextafterf(middle, 0), middle, nextafterf(middle, INFINITY)};
        const uint16_t wants[] = {pair[0], pair[0], pair[h & 1], pair[1]};
        for (int i = 0; i < 4; i++) {
            for (int sign = 0; sign < 2; sign++) {
                float v = sign ? -values[i] : values[i];
                assert_true(dtype_from_f32(d, &v, 1, &got));
                assert_int_equal(got, wants[i] | (sign ? 0x8000 : 0));
            }
        }
    }
}

static void test_rounding(void **state) {
    (void)state;
    check_rounding(DTYPE_F16, 0x7bff);
    check_rounding(DTYPE_BF16, 0x7f7f);
    static const struct {
        Dtype d;
        float x;
        uint16_t bits;
        bool fits;
    } edges[] = {{DTYPE_F16, 65519, 0x7bff, true},
                 {DTYPE_F16, 65520, 0x7c00, false},
                 {DTYPE_F16, INFINITY, 0x7c00, true},
                 {DTYPE_BF16, 3.4e38f, 0x7f80, false},
                 {DTYPE_BF16, -INFINITY, 0xff80, true}};
    for (size_t i = 0; i < COUNT(edges); i++) {
        uint16_t got;
        assert_int_equal(dtype_from_f32(edges[i].d, &edges[i].x, 1, &got), edges[i].fits);
        assert_int_equal(got, edges[i].bits);
    }
    float nan = NAN, x;
    for (Dtype d = DTYPE_F32; d <= DTYPE_BF16; d++) {
        uint16_t got[2];
        assert_true(dtype_from_f32(d, &nan, 1, got));
        Tensor t = {.dtype = d, .count = 1, .data = got};
        assert_true(tensor_read_f32(&t, 0, 1, &x) && isnan(x));
    }
}

/* Values beyond half precision are refused. */
static void test_out_of_range(void **state) {
    (void)state;
    size_t n;
    char *bytes = test_read_file(GOLDEN "open_clip/open_clip_model.safetensors", &n);
    static const float large = 1e5f;
    memcpy(bytes + n - 4, &large, 4);
    const char *file = test_path("large.safetensors"), *out = test_path("halves");
    test_write_file(file, bytes, n);
    free(bytes);
    clipc(1, "beyond the range of F16",
          line("ckpt convert %s --model " GOLDEN "model.json --dtype fp16 --out %s", file, out));
    assert_int_not_equal(access(out, F_OK), 0);
    clipc(0, "written",
          line("ckpt convert %s --model " GOLDEN "model.json --dtype bf16 --out %s", file, out));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_there_and_back),
        cmocka_unit_test(test_tokenizer_files),
        cmocka_unit_test(test_vocabulary_round_trip),
        cmocka_unit_test(test_nothing_is_written_over),
        cmocka_unit_test(test_place),
        cmocka_unit_test(test_replace),
        cmocka_unit_test(test_mix_and_average),
        cmocka_unit_test(test_what_hf_has_no_place_for),
        cmocka_unit_test(test_resized_on_the_way),
        cmocka_unit_test(test_diff),
        cmocka_unit_test(test_rounding),
        cmocka_unit_test(test_out_of_range),
    };
    return cmocka_run_group_tests_name("convert", tests, NULL, NULL);
}
