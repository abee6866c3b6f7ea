/* Checkpoints: saved values are loaded again, for all names and types; resizing as in PyTorch;
 * damaged files, a full disk, a run killed while it saves. */
#include "train/checkpoint.h"

#include "data/tensors/safetensors.h"
#include "tests/support.h"
#include "tests/support_data.h"
#include "tests/support_model.h"
#include "train/model/positions.h"
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static const Kernels *k;

/* A model of width 4 with an image grid of g×g and a text of n positions. */
static OptimState *model(ClipConfig *c, size_t g, size_t n, bool bias) {
    char json[512];
    snprintf(json, sizeof json,
             "{\"embed_dim\": 6, %s\"vision_cfg\": {\"image_size\": %zu, \"layers\": 1, \"width\": "
             "4, \"head_width\": 4, \"patch_size\": 2}, \"text_cfg\": {\"context_length\": %zu, "
             "\"vocab_size\": 11, \"width\": 4, \"heads\": 1, \"layers\": 1}}",
             bias ? "\"init_logit_bias\": -10, " : "", 2 * g, n);
    Error err;
    if (!clip_config_parse(c, "small-vit", json, strlen(json), &err)) fail_msg("%s", err.text);
    return state_new(k, c, NULL);
}

static void end(OptimState *o, ClipConfig *c) {
    state_free(o);
    clip_config_free(c);
}

static float *get(const Params *p, const acc *block, const char *name) {
    const Param *q = param_named(p, name);
    float *x = malloc(q->size * sizeof *x);
    k->acc_get_f32(x, acc_at(k, block, q->offset), q->size);
    return x;
}

static void check_equal(const Params *a, const acc *block_a, const Params *b, const acc *block_b) {
    for (size_t i = 0; i < a->count; i++) {
        float *x = get(a, block_a, a->list[i].name), *y = get(b, block_b, a->list[i].name);
        assert_memory_equal(x, y, a->list[i].size * sizeof *x);
        free(x);
        free(y);
    }
}

static void fill_moments(OptimState *o) {
    size_t n = o->p->size;
    double *x = malloc(n * sizeof *x);
    for (size_t i = 0; i < n; i++) x[i] = sin((double)i);
    k->acc_set(o->m, x, n);
    for (size_t i = 0; i < n; i++) x[i] *= x[i] * 1e-3;
    k->acc_set(o->v, x, n);
    free(x);
}

static char *path_of(const char *dir, const char *name) { return xasprintf("%s/%s", dir, name); }

static void test_round_trip(void **state) {
    (void)state;
    const char *dir = test_path("run/checkpoints"), *vocab = test_path("some-vocab.txt.gz");
    test_write_file(vocab, "merges", 6);
    ClipConfig c, c2;
    OptimState *o = model(&c, 3, 5, true);
    params_init(o->p, 1);
    fill_moments(o);
    TrainState s = {.step = 12, .epoch = 3, .position = 1ull << 40, .seed = UINT64_MAX}, t;
    checkpoint_save(dir, "step_12", o, &c, &s, vocab);
    assert_null(checkpoint_load_record(test_path("run/checkpoints/step_12")));
    s.record = "lr=1\nname=\"x\"\n";
    checkpoint_save(dir, "step_12", o, &c, &s, vocab);
    char *record = checkpoint_load_record(test_path("run/checkpoints/step_12"));
    assert_string_equal(record, s.record);
    free(record);
    s.record = NULL; /* it is read apart */

    char *latest = checkpoint_latest(dir), *folder = path_of(dir, "step_12");
    assert_string_equal(latest, folder);
    char *in_folder = pretrained_vocab(folder);
    assert_non_null(in_folder);
    char *text = test_read_file(in_folder, NULL);
    assert_string_equal(text, "merges");
    free(text);
    free(in_folder);
    char *link = path_of(dir, "latest");
    clip_config_load(&c2, link); /* through the link, from the file */
    assert_int_equal(c2.image.width, 4);
    assert_true(c2.has_logit_bias && c2.image_size == 6);
    OptimState *r = state_new(k, &c2, NULL);
    pretrained_load(link, r->p, &c2);
    check_equal(o->p, o->p->master, r->p, r->p->master);
    assert_true(checkpoint_load_state(link, NULL, &t));
    assert_memory_equal(&s, &t, sizeof s);
    t = (TrainState){0};
    assert_true(checkpoint_load_state(folder, r, &t));
    assert_memory_equal(&s, &t, sizeof s);
    check_equal(o->p, o->m, r->p, r->m);
    check_equal(o->p, o->v, r->p, r->v);
    assert_int_equal(test_entries(dir, true), 0);
    free(latest), free(folder), free(link);
    end(o, &c);
    end(r, &c2);
}

static void test_same_name_again(void **state) {
    (void)state;
    const char *dir = test_path("again");
    ClipConfig c;
    OptimState *o = model(&c, 2, 5, false);
    TrainState s = {.step = 5}, t;
    const char *vocab = test_path("vocab-that-goes-away");
    test_write_file(vocab, "v", 1);
    checkpoint_save(dir, "step_5", o, &c, &s, vocab);
    unlink(vocab); /* a run that resumes from a checkpoint that is pruned since */
    s.seed = 9;
    params_init(o->p, 2);
    checkpoint_save(dir, "step_5", o, &c, &s, vocab);
    assert_int_equal(test_entries(dir, true), 0);
    assert_int_equal(test_entries(dir, false), 2);
    char *folder = path_of(dir, "latest"), *found = pretrained_vocab(folder);
    assert_non_null(found);
    assert_true(checkpoint_load_state(folder, NULL, &t));
    assert_int_equal(t.seed, 9);
    free(found);
    free(folder);
    end(o, &c);
}

/* Scaling of so many factors, as amp_fp8 has it: in row i of column j, first + i + j / 100. */
static void give_scaling(Params *p, size_t factors, double first) {
    double *x = malloc(FP8_SCALING * factors * sizeof *x);
    for (size_t i = 0; i < FP8_SCALING * factors; i++)
        x[i] = first + (double)(i / factors) + (double)(i % factors) / 100;
    p->fp8_factors = factors;
    p->fp8 = k->device->alloc(FP8_SCALING * factors * k->acc_size);
    k->acc_set(p->fp8, x, FP8_SCALING * factors);
    free(x);
}

static void check_scaling(OptimState *o, const char *path) {
    give_scaling(o->p, 6, 0);
    assert_true(checkpoint_load_state(path, o, &(TrainState){0}));
    double *got = host_copy(k, o->p->fp8, FP8_SCALING * 6);
    for (size_t i = 0; i < FP8_SCALING * 6; i++)
        assert_near(got[i], 50 + (double)(i / 6) + (double)(i % 6) / 100, 1e-5);
    free(got);
}

static void load_scaling(void *path) {
    ClipConfig c;
    OptimState *o = model(&c, 2, 5, false);
    check_scaling(o, path);
    end(o, &c);
}

/* Train states of LoRA may have columns for its factors, too. */
static void test_scaling(void **state) {
    (void)state;
    const LoraOptions lora = {.rank = 2, .alpha = 1, .image = true};
    char *dir = xstrdup(test_path("scaling")), *folder = path_of(dir, "step_1");
    ClipConfig c;
    OptimState *o = model(&c, 2, 5, false);
    for (size_t factors = 6; factors <= 9; factors += 3) {
        give_scaling(o->p, factors, 50);
        checkpoint_save(dir, "step_1", o, &c, &(TrainState){.step = 1}, NULL);
        k->device->release(o->p->fp8);
        if (factors == 6) load_scaling(folder);
    }
    o->p->fp8 = NULL;
    test_dies(load_scaling, folder, EXIT_ERROR, "fp8_scaling has another shape than the model's");
    state_free(o);
    OptimState *wide = state_new(k, &c, &lora), *narrow = state_new(k, &c, &lora);
    give_scaling(wide->p, 9, 50);
    checkpoint_save(dir, "step_1", wide, &c, &(TrainState){.step = 1}, NULL);
    check_scaling(narrow, folder);
    state_free(narrow);
    end(wide, &c);
    free(dir), free(folder);
}

/* ---- other people's files ---- */

static float value(size_t tensor, size_t i) { return (float)((tensor * 7 + i) % 64) / 32 - 1; }

/* bf16 and f16 hold these values exactly. */
static uint16_t half(float x, Dtype d) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    if (d == DTYPE_BF16) return (uint16_t)(bits >> 16);
    if (x == 0) return 0;
    int exponent = (int)(bits >> 23 & 255) - 127 + 15;
    return (uint16_t)((bits >> 16 & 0x8000) | (uint32_t)exponent << 10 | (bits >> 13 & 1023));
}

enum Twist { NONE, MISSING, UNKNOWN, SHAPE, INTEGER, TWICE };

/* Every tensor of p in turn as F32, F16, BF16 and F64, the text tower with "text." in front,
 * logit_scale as [1], no logit_bias, buffers added. */
static void write_foreign(const char *path, const Params *p, enum Twist twist) {
    Tensor *t = calloc(p->count + 4, sizeof *t);
    size_t n = 0;
    for (size_t i = 0; i < p->count; i++) {
        const Param *q = &p->list[i];
        if (!strcmp(q->name, "logit_bias")) continue;
        if (twist == MISSING && !strcmp(q->name, "visual.proj")) continue;
        bool text = strncmp(q->name, "visual.", 7) && strncmp(q->name, "logit_", 6);
        Tensor *to = &t[n++];
        *to = (Tensor){.name = xasprintf("%s%s", text ? "text." : "", q->name),
                       .dtype = (Dtype[]){DTYPE_F32, DTYPE_F16, DTYPE_BF16, DTYPE_F64}[i % 4],
                       .ndim = q->ndim ? q->ndim : 1,
                       .count = q->size};
        for (int d = 0; d < q->ndim; d++) to->shape[d] = q->shape[d];
        if (!q->ndim) to->shape[0] = 1;
        char *data = malloc(q->size * 8);
        for (size_t j = 0; j < q->size; j++) {
            float x = value(i, j);
            double y = (double)x;
            uint16_t h = half(x, to->dtype);
            size_t size = dtype_size(to->dtype);
            memcpy(data + j * size, size == 2 ? (void *)&h : size == 4 ? (void *)&x : &y, size);
        }
        to->data = data;
        if (twist == INTEGER && !strcmp(q->name, "ln_final.bias")) {
            to->dtype = DTYPE_I32;
            to->data = calloc(q->size, 4);
            free(data);
        }
        if (twist == SHAPE && !strcmp(q->name, "visual.proj")) {
            to->shape[0] *= 2;
            to->shape[1] /= 2;
        }
    }
    static const float one = 1;
    const char *const extra[] = {"text.attn_mask", "vocab_size",
                                 twist == UNKNOWN ? "visual.ln_mid.weight" : "context_length"};
    for (size_t i = 0; i < COUNT(extra); i++)
        t[n++] = (Tensor){.name = xstrdup(extra[i]), .dtype = DTYPE_F32, .data = &one};
    if (twist == TWICE)
        t[n++] = (Tensor){.name = xstrdup("text.logit_scale"), .dtype = DTYPE_F32, .data = &one};
    write_tensors(path, t, n);
    for (size_t i = 0; i < n; i++) {
        free((char *)t[i].name);
        if (t[i].data != &one) free((void *)t[i].data);
    }
    free(t);
}

static void test_foreign_names_and_types(void **state) {
    (void)state;
    ClipConfig c;
    OptimState *o = model(&c, 2, 5, true);
    Params *p = o->p;
    const char *path = test_path("foreign.safetensors");
    write_foreign(path, p, NONE);
    params_init(o->p, 1);
    pretrained_load(path, p, &c);
    for (size_t i = 0; i < p->count; i++) {
        float *x = get(p, p->master, p->list[i].name);
        bool bias = !strcmp(p->list[i].name, "logit_bias");
        for (size_t j = 0; j < p->list[i].size; j++) assert_true(x[j] == (bias ? 0 : value(i, j)));
        free(x);
    }
    assert_false(checkpoint_load_state(test_dir(), o, &(TrainState){0}));
    end(o, &c);
}

typedef struct Load {
    const char *path;
    bool bias;
    size_t g, n;
} Load;

static void load(void *argument) {
    const Load *l = argument;
    ClipConfig c;
    OptimState *o = model(&c, l->g, l->n, l->bias);
    pretrained_load(l->path, o->p, &c);
}

static void test_wrong_tensors_are_named(void **state) {
    (void)state;
    ClipConfig c;
    OptimState *o = model(&c, 2, 5, false);
    Load l = {test_path("twisted.safetensors"), false, 2, 5};
    static const char *const names[] = {[MISSING] = "visual.proj is missing",
                                        [UNKNOWN] = "visual.ln_mid.weight",
                                        [SHAPE] = "visual.proj is [8,3], the model needs [4,6]",
                                        [INTEGER] = "text.ln_final.bias is not a floating",
                                        [TWICE] = "logit_scale is there twice"};
    for (enum Twist t = MISSING; t <= TWICE; t++) {
        write_foreign(l.path, o->p, t);
        test_dies(load, &l, EXIT_ERROR, names[t]);
    }
    end(o, &c);
    /* a bias that the model has no place for */
    o = model(&c, 2, 5, true);
    checkpoint_save(test_path("biased"), "step_0", o, &c, &(TrainState){0}, NULL);
    l.path = test_path("biased/step_0");
    test_dies(load, &l, EXIT_ERROR, "logit_bias is no tensor of the model small-vit");
    l.path = test_path("no-such-file");
    test_dies(load, &l, EXIT_ERROR, "no-such-file: No such file");
    end(o, &c);
}

/* ---- resizing ---- */

/* A file with the golden embedding in a model of its size, loaded into one of another size. */
static void check_resize(const Safetensors *golden, const char *kind, size_t from, size_t to) {
    bool image = !strcmp(kind, "image");
    const char *name = image ? "visual.positional_embedding" : "positional_embedding";
    ClipConfig c, d;
    OptimState *o = model(&c, image ? from : 2, image ? 5 : from, false);
    OptimState *r = model(&d, image ? to : 2, image ? 5 : to, false);
    params_init(o->p, 3);
    char key[64];
    snprintf(key, sizeof key, "%s.%zu.%zu.old", kind, from, to);
    const Tensor *old = safetensors_find(golden, key);
    assert_non_null(old);
    float values[512];
    assert_true(old->count <= COUNT(values) && tensor_read_f32(old, 0, old->count, values));
    assert_int_equal(old->count, param_named(o->p, name)->size);
    k->acc_set_f32(param_acc(o->p, param_named(o->p, name)), values, old->count);
    checkpoint_save(test_path("resize"), "step_1", o, &c, &(TrainState){0}, NULL);
    pretrained_load(test_path("resize/step_1"), r->p, &d);
    snprintf(key, sizeof key, "%s.%zu.%zu.new", kind, from, to);
    const Tensor *new = safetensors_find(golden, key);
    assert_non_null(new);
    assert_int_equal(new->count, param_named(r->p, name)->size);
    assert_true(new->count <= COUNT(values) && tensor_read_f32(new, 0, new->count, values));
    float *got = get(r->p, r->p->master, name);
    for (size_t i = 0; i < new->count; i++)
        assert_near((double)got[i], (double)values[i], 2e-7 * fmax(1, fabs((double)values[i])));
    free(got);
    end(o, &c);
    end(r, &d);
}

static void test_resize(void **state) {
    (void)state;
    Safetensors golden;
    Error err;
    if (!safetensors_open(&golden, "tests/golden/resize.safetensors", &err))
        fail_msg("%s", err.text);
    log_quiet(true);
    static const size_t image[][2] = {{3, 5}, {7, 4}, {4, 4}, {2, 9}};
    static const size_t text[][2] = {{5, 9}, {9, 4}, {1, 3}, {6, 6}};
    for (size_t i = 0; i < COUNT(image); i++)
        check_resize(&golden, "image", image[i][0], image[i][1]);
    for (size_t i = 0; i < COUNT(text); i++) check_resize(&golden, "text", text[i][0], text[i][1]);
    log_quiet(false);
    safetensors_close(&golden);
}

/* Without a class token the grid's rows are those that it has behind one. */
static void test_resize_without_class(void **state) {
    (void)state;
    enum { G = 3, TO = 5, C = 2 };
    float from[(1 + G * G) * C];
    for (size_t i = 0; i < COUNT(from); i++) from[i] = (float)(i * i % 17);
    float *with = positions_resize(from, 1 + G * G, 1 + TO * TO, C, true);
    float *without = positions_resize(from + C, G * G, TO * TO, C, true);
    assert_non_null(with);
    assert_non_null(without);
    assert_memory_equal(with, from, C * sizeof *from);
    assert_memory_equal(with + C, without, TO * TO * C * sizeof *from);
    assert_null(positions_resize(from, 1 + G * G, TO * TO, C, true));
    assert_null(positions_resize(from, G * G, 1 + TO * TO, C, true));
    free(with);
    free(without);
}

/* ---- damage ---- */

static void save_steps(const char *dir, const unsigned *steps, size_t n) {
    ClipConfig c;
    OptimState *o = model(&c, 2, 5, false);
    for (size_t i = 0; i < n; i++) {
        char name[32];
        snprintf(name, sizeof name, "step_%u", steps[i]);
        checkpoint_save(dir, name, o, &c, &(TrainState){.step = steps[i]}, NULL);
    }
    end(o, &c);
}

static void print_latest(void *dir) { fprintf(stderr, "latest: %s\n", checkpoint_latest(dir)); }

/* One bit of the byte that many before the end. */
static void flip_bit(const char *path, size_t before_end) {
    size_t n;
    char *bytes = test_read_file(path, &n);
    bytes[n - before_end] ^= 16;
    test_write_file(path, bytes, n);
    free(bytes);
}

static void load_state(void *path) {
    ClipConfig c;
    OptimState *o = model(&c, 3, 5, false);
    checkpoint_load_state(path, o, &(TrainState){0});
}

static void test_damaged_is_passed_over(void **state) {
    (void)state;
    const char *dir = test_path("damaged");
    save_steps(dir, (unsigned[]){90, 100, 9}, 3); /* by number, neither by name nor by time */
    test_dies(print_latest, (void *)dir, 0, "latest: ");
    char *latest = checkpoint_latest(dir);
    assert_non_null(strstr(latest, "/step_100"));
    free(latest);
    assert_int_equal(truncate(test_path("damaged/step_100/open_clip_model.safetensors"), 3000), 0);
    test_dies(print_latest, (void *)dir, 0, "damaged/step_100 is damaged");
    test_dies(print_latest, (void *)dir, 0, "damaged/step_90\n");
    Load l = {test_path("damaged/step_100"), false, 2, 5};
    test_dies(load, &l, EXIT_ERROR, "step_100/open_clip_model.safetensors: truncated");
    assert_int_equal(truncate(test_path("damaged/step_90/train_state.safetensors"), 5), 0);
    test_dies(print_latest, (void *)dir, 0, "damaged/step_9\n");
    assert_int_equal(unlink(test_path("damaged/step_9/train_state.safetensors")), 0);
    assert_null(checkpoint_latest(dir));
    /* one bit of a weight, one of a moment */
    save_steps(dir, (unsigned[]){9, 90, 100}, 3);
    flip_bit(test_path("damaged/step_100/open_clip_model.safetensors"), 8);
    flip_bit(test_path("damaged/step_90/train_state.safetensors"), 8);
    test_dies(print_latest, (void *)dir, 0, "step_100/open_clip_model.safetensors: damaged");
    test_dies(print_latest, (void *)dir, 0, "step_90/train_state.safetensors: damaged");
    test_dies(print_latest, (void *)dir, 0, "latest: ");
    test_dies(print_latest, (void *)dir, 0, "damaged/step_9\n");
    test_dies(load, &l, EXIT_ERROR, "step_100/open_clip_model.safetensors: damaged");
    test_dies(load_state, (void *)test_path("damaged/step_90"), EXIT_ERROR,
              "train_state.safetensors: damaged");
    assert_null(checkpoint_latest(test_path("no-such-run")));
}

static void test_state_of_another_model(void **state) {
    (void)state;
    save_steps(test_path("other"), (unsigned[]){1}, 1);
    test_dies(load_state, (void *)test_path("other/step_1"), EXIT_ERROR,
              "adam_m.visual.positional_embedding has another shape");
    test_write_file(test_path("other/step_1/train_state.safetensors"), "", 0);
    test_dies(load_state, (void *)test_path("other/step_1"), EXIT_ERROR, "truncated");
    Tensor none = {0};
    write_tensors(test_path("other/step_1/train_state.safetensors"), &none, 0);
    test_dies(load_state, (void *)test_path("other/step_1"), EXIT_ERROR, "not a train state");
}

static void save_on_full_disk(void *dir) {
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &(struct rlimit){4000, 4000});
    save_steps(dir, (unsigned[]){2}, 1);
}

static void save_step_2(void *dir) { save_steps(dir, (unsigned[]){2}, 1); }

static void check_step_1_stands(const char *dir) {
    char *latest = checkpoint_latest(dir);
    assert_non_null(latest);
    assert_non_null(strstr(latest, "/step_1"));
    free(latest);
    assert_int_equal(test_entries(dir, true), 0);
    assert_int_equal(test_entries(dir, false), 2);
}

static void test_disk_full(void **state) {
    (void)state;
    const char *dir = test_path("full");
    save_steps(dir, (unsigned[]){1}, 1);
    test_dies(save_on_full_disk, (void *)dir, EXIT_ERROR, "File too large");
    check_step_1_stands(dir);
}

static void test_no_folder_can_be_made(void **state) {
    (void)state;
    test_write_file(test_path("a-file"), "", 0);
    test_dies(save_step_2, (void *)test_path("a-file/checkpoints"), EXIT_ERROR,
              "a-file/checkpoints: Not a directory");
}

static void save_step_2_obeying(void *dir) {
    test_obey_modes();
    save_step_2(dir);
}

static void test_read_only_folder(void **state) {
    (void)state;
    const char *dir = test_path("read-only");
    save_steps(dir, (unsigned[]){1}, 1);
    chmod(dir, 0555);
    test_dies(save_step_2_obeying, (void *)dir, EXIT_ERROR, "Permission denied");
    chmod(dir, 0755);
    check_step_1_stands(dir);
}

/* Killed at any moment: a complete checkpoint remains, and its files belong to one step. */
static void test_killed_while_saving(void **state) {
    (void)state;
    const char *dir = test_path("killed");
    save_steps(dir, (unsigned[]){1}, 1);
    for (int round = 0; round < 12; round++) {
        pid_t child = fork();
        if (!child) {
            ClipConfig c;
            OptimState *o = model(&c, 2, 5, false);
            const Param *scale = param_named(o->p, "logit_scale");
            for (uint64_t step = 2;; step++) {
                float x = (float)step;
                k->acc_set_f32(param_acc(o->p, scale), &x, 1);
                /* three names in turn: each is replaced again and again */
                char name[32];
                snprintf(name, sizeof name, "step_%d", (int)(step % 3) + 1);
                checkpoint_save(dir, name, o, &c, &(TrainState){.step = step}, NULL);
            }
        }
        usleep(3000 + 2500 * (useconds_t)round);
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
        char *latest = checkpoint_latest(dir);
        assert_non_null(latest);
        ClipConfig c;
        OptimState *o = model(&c, 2, 5, false);
        TrainState s;
        pretrained_load(latest, o->p, &c);
        assert_true(checkpoint_load_state(latest, o, &s));
        float *x = get(o->p, o->p->master, "logit_scale");
        assert_true(s.step == 1 || *x == (float)s.step);
        free(x);
        free(latest);
        end(o, &c);
    }
    save_steps(dir, (unsigned[]){1}, 1);
    assert_int_equal(test_entries(dir, true), 0); /* the unfinished one is swept up */
}

static bool exists(const char *dir, const char *name) {
    char *path = path_of(dir, name);
    bool yes = !access(path, F_OK);
    free(path);
    return yes;
}

static void test_prune(void **state) {
    (void)state;
    const char *dir = test_path("prune");
    save_steps(dir, (unsigned[]){8, 9, 10, 100}, 4);
    ClipConfig c;
    OptimState *o = model(&c, 2, 5, false);
    checkpoint_save(dir, "epoch_1", o, &c, &(TrainState){.step = 7}, NULL);
    checkpoint_prune(dir, 2);
    assert_true(exists(dir, "epoch_1") && exists(dir, "step_100") && exists(dir, "step_10"));
    assert_false(exists(dir, "step_9") || exists(dir, "step_8"));
    checkpoint_save(dir, "step_10", o, &c, &(TrainState){.step = 10}, NULL);
    checkpoint_prune(dir, 1); /* latest points at step_10 */
    assert_true(exists(dir, "step_100") && exists(dir, "step_10"));
    end(o, &c);
}

/* Links lead elsewhere, and other spellings of a number are not the program's: both stay, and
 * neither counts among those that are kept. */
static void test_prune_stays_inside(void **state) {
    (void)state;
    const char *dir = test_path("prune-inside");
    char *elsewhere = path_of(dir, "elsewhere");
    save_steps(dir, (unsigned[]){1, 2}, 2);
    static const char *const others[] = {"elsewhere", "step_+900", "step_0007", "step_8x"};
    for (size_t i = 0; i < COUNT(others); i++) {
        char *path = path_of(dir, others[i]);
        assert_int_equal(mkdir(path, 0777), 0);
        free(path);
    }
    char *precious = path_of(elsewhere, "precious");
    test_write_file(precious, "x", 1);
    free(precious);
    static const char *const links[] = {"step_0", "step_999", "step_1/inner"};
    for (size_t i = 0; i < COUNT(links); i++) {
        char *path = path_of(dir, links[i]);
        assert_int_equal(symlink(i == 2 ? "../elsewhere" : "elsewhere", path), 0);
        free(path);
    }
    checkpoint_prune(dir, 1);
    assert_false(exists(dir, "step_1"));
    assert_true(exists(dir, "step_2") && exists(dir, "step_0") && exists(dir, "step_999"));
    for (size_t i = 0; i < COUNT(others); i++) assert_true(exists(dir, others[i]));
    assert_true(exists(elsewhere, "precious"));
    free(elsewhere);
}

static int setup(void **state) {
    (void)state;
    k = kernels_open("ref", PRECISION_FP32);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_same_name_again),
        cmocka_unit_test(test_scaling),
        cmocka_unit_test(test_foreign_names_and_types),
        cmocka_unit_test(test_wrong_tensors_are_named),
        cmocka_unit_test(test_resize),
        cmocka_unit_test(test_resize_without_class),
        cmocka_unit_test(test_damaged_is_passed_over),
        cmocka_unit_test(test_state_of_another_model),
        cmocka_unit_test(test_disk_full),
        cmocka_unit_test(test_no_folder_can_be_made),
        cmocka_unit_test(test_read_only_folder),
        cmocka_unit_test(test_killed_while_saving),
        cmocka_unit_test(test_prune),
        cmocka_unit_test(test_prune_stays_inside),
    };
    return cmocka_run_group_tests_name("checkpoint", tests, setup, NULL);
}
