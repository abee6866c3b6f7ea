/* Many ranks against one with the same global batch: losses and gradient norms of ten steps, every
 * gradient, every weight after ten steps. The ranks are processes under mpirun. */
#include "tests/support.h"
#include "data/safetensors.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GOLDEN "tests/golden/openclip"
enum { STEPS = 10 };

static bool have_mpirun;

static bool shell(const char *line) { return system(line) == 0; }

/* The program under `ranks` ranks (0: alone, no mpirun); what it says on stderr goes to a file. */
static bool clipc(int ranks, const char *args, const char *out) {
    const char *program = getenv("CLIPC");
    char line[9000], launcher[200] = "";
    if (ranks)
        snprintf(launcher, sizeof launcher,
                 "mpirun --allow-run-as-root --oversubscribe --bind-to none -np %d ", ranks);
    snprintf(line, sizeof line,
             "OMP_NUM_THREADS=1 ASAN_OPTIONS=detect_leaks=0 %s%s %s >'%s' 2>'%s'", launcher,
             program ? program : "build/clipc", args, out, test_path("stderr"));
    if (shell(line)) return true;
    char *said = test_read_file(test_path("stderr"), NULL);
    print_error("%s\n%s\n", line, said);
    free(said);
    return false;
}

/* Ten steps into the run folder `name`; every checkpoint stays. With the usual eps of 1e-6 Adam
 * would turn the rounding of gradients near zero into a part of a step. */
static void train(int ranks, const char *name, const char *options) {
    char args[4096];
    snprintf(args, sizeof args,
             "train --pretrained " GOLDEN " --vocab " GOLDEN "/vocab.txt --train-data " GOLDEN
             "/pairs.tsv --epochs 5 --max-steps %d --warmup 3 --lr 1e-3 --eps 1e-4 --workers 1 "
             "--precision "
             "fp32 --save-frequency-steps 1 --keep-checkpoints 99 --comm-timeout 30 --logs '%s' "
             "--name %s %s",
             STEPS, test_path("logs"), name, options);
    assert_true(clipc(ranks, args, "/dev/null"));
}

static char *in_run(const char *name, const char *file) {
    char path[300];
    snprintf(path, sizeof path, "logs/%s/%s", name, file);
    return xstrdup(test_path(path));
}

/* Softmax does not see a bias of the keys: its gradient is zero but for rounding, which Adam
 * enlarges to steps of their own. */
static bool is_key_bias(const Tensor *t, size_t i) {
    return strstr(t->name, "attn.in_proj_bias") && i >= t->count / 3 && i < 2 * t->count / 3;
}

/* ‖x - y‖₂ / ‖y‖₂ of the worst tensor. (Single weights can differ more: Adam turns the rounding of
 * a gradient near zero into a part of a step.) */
static double worst_tensor(const char *a, const char *b, const char *file, const char *prefix,
                           char where[160]) {
    char *path[2] = {in_run(a, file), in_run(b, file)};
    Safetensors st[2];
    Error err;
    double worst = 0;
    for (int i = 0; i < 2; i++)
        if (!safetensors_open(&st[i], path[i], &err)) fail_msg("%s", err.text);
    for (size_t i = 0; i < st[0].count; i++) {
        const Tensor *x = &st[0].tensors[i], *y = safetensors_find(&st[1], x->name);
        if (strncmp(x->name, prefix, strlen(prefix))) continue;
        assert_non_null(y);
        assert_int_equal(x->count, y->count);
        float *u = xmalloc(x->count * sizeof *u), *v = xmalloc(x->count * sizeof *v);
        assert_true(tensor_read_f32(x, 0, x->count, u) && tensor_read_f32(y, 0, y->count, v));
        double most = 0, difference = 0;
        for (size_t j = 0; j < x->count; j++) {
            if (is_key_bias(x, j)) continue;
            most += (double)v[j] * v[j];
            difference += ((double)u[j] - v[j]) * ((double)u[j] - v[j]);
        }
        assert_true(isfinite(difference));
        if (sqrt(difference) > worst * sqrt(most)) {
            worst = sqrt(difference / most);
            snprintf(where, 160, "%s", x->name);
        }
        free(u);
        free(v);
    }
    for (int i = 0; i < 2; i++) {
        safetensors_close(&st[i]);
        free(path[i]);
    }
    return worst;
}

/* Largest relative difference of a number of metrics.jsonl over all steps. */
static double worst_metric(const char *a, const char *b, const char *key) {
    char *path[2] = {in_run(a, "metrics.jsonl"), in_run(b, "metrics.jsonl")}, *save[2];
    char *text[2] = {test_read_file(path[0], NULL), test_read_file(path[1], NULL)};
    char *line[2] = {strtok_r(text[0], "\n", &save[0]), strtok_r(text[1], "\n", &save[1])};
    double worst = 0;
    for (int step = 1; step <= STEPS; step++) {
        double x[2];
        for (int i = 0; i < 2; i++) {
            json_error_t err;
            assert_non_null(line[i]);
            json_t *json = json_loads(line[i], 0, &err);
            assert_int_equal(json_integer_value(json_object_get(json, "step")), step);
            x[i] = json_number_value(json_object_get(json, key));
            json_decref(json);
            line[i] = strtok_r(NULL, "\n", &save[i]);
        }
        worst = fmax(worst, fabs(x[0] - x[1]) / fabs(x[1]));
    }
    for (int i = 0; i < 2; i++) {
        assert_null(line[i]);
        free(path[i]);
        free(text[i]);
    }
    return worst;
}

/* After the first step Adam's first moment is (1-β₁) times the gradient. */
static void compare(const char *got, const char *want) {
    char where[160] = "";
    double loss = worst_metric(got, want, "loss"), norm = worst_metric(got, want, "grad_norm");
    double gradient =
        worst_tensor(got, want, "checkpoints/step_1/train_state.safetensors", "adam_m.", where);
    print_message("%s: loss %.1e, gradient norm %.1e, gradients %.1e (%s)", got, loss, norm,
                  gradient, where);
    double weights =
        worst_tensor(got, want, "checkpoints/epoch_5/open_clip_model.safetensors", "", where);
    print_message(", weights %.1e (%s)\n", weights, where);
    assert_near(loss, 0, 1e-5);
    assert_near(norm, 0, 1e-5);
    assert_near(gradient, 0, 1e-5);
    assert_near(weights, 0, 1e-5);
}

static void skip_without_mpirun(const char *test) {
    if (have_mpirun) return;
    print_message("SKIP: %s: no mpirun here (or a build without MPI)\n", test);
    skip();
}

static void test_two(void **state) {
    (void)state;
    skip_without_mpirun("two_ranks");
    compare("two", "one");
    train(2, "two_accumulated", "--batch-size 3 --accum-freq 2 --grad-checkpointing");
    compare("two_accumulated", "one");
}

static void test_three(void **state) {
    (void)state;
    skip_without_mpirun("three_ranks");
    train(3, "three", "--batch-size 2 --accum-freq 2");
    compare("three", "one");
}

static void test_four(void **state) {
    (void)state;
    skip_without_mpirun("four_ranks");
    train(4, "four", "--batch-size 3 --grad-checkpointing");
    compare("four", "one");
}

static void test_sharded(void **state) {
    (void)state;
    skip_without_mpirun("sharded_optimizer");
    /* a sum of two has one order: the same bits; of three, another one */
    train(2, "sharded_two", "--batch-size 6 --shard-optimizer");
    char line[1000];
    for (int state_file = 0; state_file < 2; state_file++) {
        const char *file = state_file ? "train_state" : "open_clip_model";
        snprintf(line, sizeof line,
                 "cd '%s' && cmp two/checkpoints/epoch_5/%s.safetensors "
                 "sharded_two/checkpoints/epoch_5/%s.safetensors",
                 test_path("logs"), file, file);
        assert_true(shell(line));
    }
    train(3, "sharded", "--batch-size 2 --accum-freq 2 --shard-optimizer --grad-clip-norm 1");
    train(0, "clipped", "--batch-size 12 --grad-clip-norm 1");
    compare("sharded", "clipped");
}

static void test_siglip(void **state) {
    (void)state;
    skip_without_mpirun("siglip_ranks");
    train(0, "siglip", "--batch-size 12 --siglip");
    train(4, "siglip_four", "--batch-size 3 --siglip");
    compare("siglip_four", "siglip");
}

/* Four ranks up to step 5, in the middle of an epoch, then two: the position is samples consumed.
 */
static void test_resume(void **state) {
    (void)state;
    skip_without_mpirun("resume_with_another_number_of_ranks");
    char line[2000];
    train(4, "moved", "--batch-size 3");
    char *dir = in_run("moved", "checkpoints");
    snprintf(line, sizeof line, "cd '%s' && rm -r epoch_[345] step_[6789]* latest", dir);
    assert_true(shell(line));
    free(dir);
    train(2, "moved", "--batch-size 6 --resume latest --shard-optimizer");
    compare("moved", "one");
}

/* 24 pairs in batches of 5 over 3 ranks, one of them unreadable: the numbers of one rank. */
static void test_evaluation(void **state) {
    (void)state;
    skip_without_mpirun("evaluation_over_ranks");
    char line[2000], args[600];
    snprintf(line, sizeof line, "cp -r " GOLDEN " '%s' && echo bad >'%s/07.jpg'", test_path("data"),
             test_path("data"));
    assert_true(shell(line));
    snprintf(args, sizeof args,
             "eval retrieval --checkpoint " GOLDEN " --vocab " GOLDEN "/vocab.txt --precision fp32 "
             "--batch-size 5 --json --data '%s/pairs.tsv'",
             test_path("data"));
    json_t *result[2];
    for (int i = 0; i < 2; i++) {
        json_error_t err;
        assert_true(clipc(i ? 3 : 0, args, test_path("json")));
        result[i] = json_load_file(test_path("json"), 0, &err);
        assert_non_null(result[i]);
        assert_int_equal(json_integer_value(json_object_get(result[i], "pairs")), 23);
        assert_int_equal(json_integer_value(json_object_get(result[i], "bad")), 1);
        json_object_del(result[i], "samples_per_s");
    }
    assert_true(json_equal(result[0], result[1]));
    json_decref(result[0]);
    json_decref(result[1]);
}

/* Half of the bytes of the two-matrix form, but for the columns' statistics. */
static void test_simulated_share(void **state) {
    (void)state;
    json_error_t err;
    assert_true(clipc(0,
                      "bench loss --global-batch 4096 --ranks-simulated 16 --dim 64 --reps 1 "
                      "--logit-memory 64 --json",
                      test_path("json")));
    json_t *r = json_load_file(test_path("json"), 0, &err);
    assert_non_null(r);
    double sent = json_number_value(json_object_get(r, "sent_mib"));
    double rows = 4096 - 256, statistics = 2. * 4096 * 15 / 16 * 2 + 2. * 15 / 16;
    assert_int_equal(json_integer_value(json_object_get(r, "n")), 256);
    assert_int_equal(json_integer_value(json_object_get(r, "products")), 3);
    assert_near(sent * (1 << 20), 4 * (2 * rows * 64 + statistics), 1);
    assert_near(json_number_value(json_object_get(r, "two_matrix_sent_mib")) * (1 << 20),
                4 * 4 * rows * 64, 1);
    assert_true(isfinite(json_number_value(json_object_get(r, "loss"))));
    json_decref(r);
}

static int setup(void **state) {
    (void)state;
    have_mpirun = shell("mpirun --version >/dev/null 2>&1") &&
                  !shell("${CLIPC:-build/clipc} train --comm mpi --dry-run --model small 2>&1 | "
                         "grep -q 'no MPI'");
    train(0, "one", "--batch-size 12");
    if (have_mpirun) train(2, "two", "--batch-size 6");
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_two),        cmocka_unit_test(test_three),
        cmocka_unit_test(test_four),       cmocka_unit_test(test_sharded),
        cmocka_unit_test(test_siglip),     cmocka_unit_test(test_resume),
        cmocka_unit_test(test_evaluation), cmocka_unit_test(test_simulated_share),
    };
    return cmocka_run_group_tests_name("ranks", tests, setup, NULL);
}
