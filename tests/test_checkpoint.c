/* Checkpoints: saved values are loaded again; damaged files, a full disk, a run killed while it
 * saves. */
#include "train/checkpoint.h"

#include "tests/support.h"
#include "tests/support_data.h"
#include "tests/support_model.h"
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

static void check_equal(const Params *a, const acc *block_a, const Params *b, const acc *block_b) {
    for (size_t i = 0; i < a->count; i++) {
        float *x = param_floats(a, block_a, a->list[i].name),
              *y = param_floats(b, block_b, a->list[i].name);
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
    OptimState *o = small_state(k, &c, 3, 5, true);
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
    assert_non_null(param_named(r->p, "text_projection.bias"));
    assert_true(checkpoint_load_state(link, NULL, &t));
    assert_memory_equal(&s, &t, sizeof s);
    t = (TrainState){0};
    assert_true(checkpoint_load_state(folder, r, &t));
    assert_memory_equal(&s, &t, sizeof s);
    check_equal(o->p, o->m, r->p, r->m);
    check_equal(o->p, o->v, r->p, r->v);
    assert_int_equal(test_entries(dir, true), 0);
    free(latest), free(folder), free(link);
    small_end(o, &c);
    small_end(r, &c2);
}

static void test_same_name_again(void **state) {
    (void)state;
    const char *dir = test_path("again");
    ClipConfig c;
    OptimState *o = small_state(k, &c, 2, 5, false);
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
    small_end(o, &c);
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
    OptimState *o = small_state(k, &c, 2, 5, false);
    check_scaling(o, path);
    small_end(o, &c);
}

/* Train states of LoRA may have columns for its factors, too. */
static void test_scaling(void **state) {
    (void)state;
    const LoraOptions lora = {.rank = 2, .alpha = 1, .image = true};
    char *dir = xstrdup(test_path("scaling")), *folder = path_of(dir, "step_1");
    ClipConfig c;
    OptimState *o = small_state(k, &c, 2, 5, false);
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
    small_end(wide, &c);
    free(dir), free(folder);
}

/* ---- damage ---- */

static void save_steps(const char *dir, const unsigned *steps, size_t n) {
    ClipConfig c;
    OptimState *o = small_state(k, &c, 2, 5, false);
    for (size_t i = 0; i < n; i++) {
        char name[32];
        snprintf(name, sizeof name, "step_%u", steps[i]);
        checkpoint_save(dir, name, o, &c, &(TrainState){.step = steps[i]}, NULL);
    }
    small_end(o, &c);
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

static void load_weights(void *path) {
    ClipConfig c;
    OptimState *o = small_state(k, &c, 2, 5, false);
    pretrained_load(path, o->p, &c);
}

static void load_state(void *path) {
    ClipConfig c;
    OptimState *o = small_state(k, &c, 3, 5, false);
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
    char *newest = xstrdup(test_path("damaged/step_100"));
    test_dies(load_weights, newest, EXIT_ERROR, "step_100/open_clip_model.safetensors: truncated");
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
    test_dies(load_weights, newest, EXIT_ERROR, "step_100/open_clip_model.safetensors: damaged");
    test_dies(load_state, (void *)test_path("damaged/step_90"), EXIT_ERROR,
              "train_state.safetensors: damaged");
    free(newest);
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
            OptimState *o = small_state(k, &c, 2, 5, false);
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
        OptimState *o = small_state(k, &c, 2, 5, false);
        TrainState s;
        pretrained_load(latest, o->p, &c);
        assert_true(checkpoint_load_state(latest, o, &s));
        float *x = param_floats(o->p, o->p->master, "logit_scale");
        assert_true(s.step == 1 || *x == (float)s.step);
        free(x);
        free(latest);
        small_end(o, &c);
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
    OptimState *o = small_state(k, &c, 2, 5, false);
    checkpoint_save(dir, "epoch_1", o, &c, &(TrainState){.step = 7}, NULL);
    checkpoint_prune(dir, 2);
    assert_true(exists(dir, "epoch_1") && exists(dir, "step_100") && exists(dir, "step_10"));
    assert_false(exists(dir, "step_9") || exists(dir, "step_8"));
    checkpoint_save(dir, "step_10", o, &c, &(TrainState){.step = 10}, NULL);
    checkpoint_prune(dir, 1); /* latest points at step_10 */
    assert_true(exists(dir, "step_100") && exists(dir, "step_10"));
    small_end(o, &c);
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
