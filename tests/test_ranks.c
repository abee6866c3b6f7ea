/* Many ranks against one with the same global batch: losses and gradient norms of the steps, every
 * gradient, every weight after the last one. The ranks are processes: CPU ranks under mpirun, GPU
 * ranks started as torchrun, SLURM or mpirun would. */
#include "tests/support.h"
#include "tests/support_ranks.h"
#include "data/tensors/safetensors.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GOLDEN "tests/golden/openclip"

enum { STEPS = 10, GLOBAL = 12 };

/* Runs the program on `ranks` ranks (0: alone, no launcher); its output goes to a file. */
static bool clipc(Launcher by, int ranks, const char *args, const char *out) {
    char command[9000];
    snprintf(command, sizeof command, "%s %s", test_program(), args);
    return ranks_run(by, ranks, command, out);
}

/* Into the run folder `name`; every checkpoint stays. With the usual eps of 1e-6 Adam would turn
 * the rounding of gradients near zero into a part of a step. */
static void train_by(Launcher by, int ranks, const char *name, const char *options) {
    char args[4096];
    snprintf(args, sizeof args,
             "train --pretrained " GOLDEN " --vocab " GOLDEN "/vocab.txt --train-data " GOLDEN
             "/pairs.tsv --epochs 5 --max-steps %d --warmup 3 --lr 1e-3 --eps 1e-4 --workers 1 "
             "--precision fp32 --device %s --save-frequency-steps 1 --keep-checkpoints 99 "
             "--comm-timeout 30 --logs '%s' --name %s %s",
             STEPS, TEST_DEVICE, test_path("logs"), name, options);
    assert_true(clipc(by, ranks, args, "/dev/null"));
}

/* batch size × accumulation × ranks = GLOBAL */
static void train(int ranks, int accum, const char *name, const char *options) {
    char more[300];
    snprintf(more, sizeof more, "--batch-size %d --accum-freq %d %s",
             GLOBAL / accum / (ranks ? ranks : 1), accum, options);
    train_by(ranks_usual, ranks, name, more);
}

static char *in_run(const char *name, const char *file) {
    char path[300];
    snprintf(path, sizeof path, "logs/%s/%s", name, file);
    return xstrdup(test_path(path));
}

/* Softmax is invariant to a bias of the keys: its gradient is zero except for rounding, which Adam
 * enlarges to real steps. */
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
static void compare_within(const char *got, const char *want, double most) {
    char where[160] = "";
    double loss = worst_metric(got, want, "loss"), norm = worst_metric(got, want, "grad_norm");
    double gradient =
        worst_tensor(got, want, "checkpoints/step_1/train_state.safetensors", "adam_m.", where);
    print_message("%s: loss %.1e, gradient norm %.1e, gradients %.1e (%s)", got, loss, norm,
                  gradient, where);
    double weights =
        worst_tensor(got, want, "checkpoints/latest/open_clip_model.safetensors", "", where);
    print_message(", weights %.1e (%s)\n", weights, where);
    assert_near(loss, 0, most);
    assert_near(norm, 0, most);
    assert_near(gradient, 0, most);
    assert_near(weights, 0, most);
}

static void compare(const char *got, const char *want) { compare_within(got, want, 1e-5); }

/* Model and state of the last checkpoints. */
static void same_bits(const char *got, const char *want) {
    for (int i = 0; i < 2; i++) {
        const char *file = i ? "train_state" : "open_clip_model";
        char *command = xasprintf("cd '%s' && cmp %s/checkpoints/latest/%s.safetensors "
                                  "%s/checkpoints/latest/%s.safetensors",
                                  test_path("logs"), want, file, got, file);
        assert_true(test_shell(command));
        free(command);
    }
}

/* Removes the checkpoints after step 5. */
static void go_back(const char *run) {
    char *command = xasprintf("cd '%s/%s/checkpoints' && rm -r epoch_[345] step_[6789]* latest",
                              test_path("logs"), run);
    assert_true(test_shell(command));
    free(command);
}

static void test_two(void **state) {
    (void)state;
    need_ranks("two_ranks", 2);
    compare("two", "one");
    train(2, 3, "two_accumulated", "--grad-checkpointing");
    compare("two_accumulated", "one");
}

static void test_three(void **state) {
    (void)state;
    need_ranks("three_ranks", 3);
    train(3, 2, "three", "");
    compare("three", "one");
}

static void test_four(void **state) {
    (void)state;
    need_ranks("four_ranks", 4);
    train(4, 1, "four", "--grad-checkpointing");
    compare("four", "one");
}

static void test_sharded(void **state) {
    (void)state;
    need_ranks("sharded_optimizer", 3);
    /* a sum of two has one order: the same bits; of three, another one */
    train(2, 1, "sharded_two", "--shard-optimizer");
    same_bits("sharded_two", "two");
    train(3, 2, "sharded", "--shard-optimizer --grad-clip-norm 1");
    train(0, 1, "clipped", "--grad-clip-norm 1");
    compare("sharded", "clipped");
}

static void test_siglip(void **state) {
    (void)state;
    need_ranks("siglip_ranks", 4);
    train(0, 1, "siglip", "--siglip");
    train(4, 1, "siglip_four", "--siglip");
    compare("siglip_four", "siglip");
}

/* If compute weights are a separate block, the masters of matrices are sharded as well: two ranks
 * give the same bits as unsharded, including save and resume. */
static void test_sharded_masters(void **state) {
    (void)state;
    need_ranks("sharded_masters", 2);
    train(2, 1, "bf16", "--precision amp_bf16");
    train(2, 1, "sharded_bf16", "--precision amp_bf16 --shard-optimizer");
    go_back("sharded_bf16");
    train(2, 1, "sharded_bf16", "--precision amp_bf16 --shard-optimizer --resume latest");
    same_bits("sharded_bf16", "bf16");
    train(3, 2, "sharded_three", "--precision amp_bf16 --shard-optimizer");
    compare_within("sharded_three", "bf16", 5e-2);
}

/* Texts are sent rounded to 8 bits: results differ slightly, but do differ. */
static void test_gather_bf16(void **state) {
    (void)state;
    need_ranks("features_as_bf16", 2);
    train(2, 1, "narrow", "--gather-dtype bf16");
    compare_within("narrow", "one", 2e-2);
    assert_true(worst_metric("narrow", "one", "loss") > 2e-6);
}

/* Four ranks up to the middle of an epoch, then two: the position is samples consumed. */
static void test_resume(void **state) {
    (void)state;
    need_ranks("resume_with_another_number_of_ranks", 4);
    train(4, 1, "moved", "");
    go_back("moved");
    train(2, 1, "moved", "--resume latest --shard-optimizer");
    compare("moved", "one");
}

#if defined TEST_CUDA
/* A world of one rank, real if there is a GPU. */
static void test_alone(void **state) {
    (void)state;
    need_ranks("world_of_one", 1);
    train(1, 1, "alone", "--comm nccl --shard-optimizer");
    compare("alone", "one");
}

static void test_slurm(void **state) {
    (void)state;
    need_ranks("as_slurm_starts_ranks", 2);
    char options[100];
    snprintf(options, sizeof options, "--batch-size %d", GLOBAL / 2);
    train_by(BY_SLURM, 2, "slurm", options);
    compare("slurm", "two");
}

static void test_mpirun(void **state) {
    (void)state;
    need_ranks("id_by_mpi", 2);
    if (!ranks_have_mpirun()) {
        print_message("SKIP: id_by_mpi: no mpirun here (or a build without MPI)\n");
        skip();
    }
    char options[100];
    snprintf(options, sizeof options, "--comm nccl --batch-size %d", GLOBAL / 2);
    train_by(BY_MPI, 2, "by_mpi", options);
    compare("by_mpi", "two");
}
#endif

/* 24 pairs in batches of 5 over 3 ranks, one of them unreadable: the numbers of one rank. */
static void test_evaluation(void **state) {
    (void)state;
    need_ranks("evaluation_over_ranks", 3);
    char line[2000], args[600];
    snprintf(line, sizeof line, "cp -r " GOLDEN " '%s' && echo bad >'%s/07.jpg'", test_path("data"),
             test_path("data"));
    assert_true(test_shell(line));
    snprintf(args, sizeof args,
             "eval retrieval --checkpoint " GOLDEN " --vocab " GOLDEN "/vocab.txt --precision fp32 "
             "--device %s --batch-size 5 --json --data '%s/pairs.tsv'",
             TEST_DEVICE, test_path("data"));
    json_t *result[2];
    for (int i = 0; i < 2; i++) {
        json_error_t err;
        assert_true(clipc(ranks_usual, i ? 3 : 0, args, test_path("json")));
        result[i] = json_load_file(test_path("json"), 0, &err);
        assert_non_null(result[i]);
        assert_int_equal(json_integer_value(json_object_get(result[i], "pairs")), 23);
        assert_int_equal(json_integer_value(json_object_get(result[i], "bad")), 1);
        json_object_del(result[i], "samples_per_s");
        json_object_del(result[i], "rank_seconds");
    }
    assert_true(json_equal(result[0], result[1]));
    json_decref(result[0]);
    json_decref(result[1]);
}

#if !defined TEST_CUDA
/* Half of the bytes of the two-matrix form, except the columns' statistics, and half or two thirds
 * of its products. */
static void test_simulated_share(void **state) {
    (void)state;
    for (int kind = 0; kind < 3; kind++) {
        bool kept = kind == 1, narrow = kind == 2;
        char args[300];
        json_error_t err;
        snprintf(args, sizeof args,
                 "bench loss --global-batch 4096 --ranks-simulated 16 --dim 64 --reps 1 "
                 "--logit-memory %d --gather-dtype %s --device cpu --json",
                 kept ? 4 : 2, narrow ? "bf16" : "fp32");
        assert_true(clipc(ranks_usual, 0, args, test_path("json")));
        json_t *r = json_load_file(test_path("json"), 0, &err);
        assert_non_null(r);
        double sent = json_number_value(json_object_get(r, "sent_mib")), rows = 4096 - 256;
        double statistics = 2. * 4096 * 15 / 16 * 2 + 2. * 15 / 16;
        assert_int_equal(json_integer_value(json_object_get(r, "n")), 256);
        assert_int_equal(json_integer_value(json_object_get(r, "products")), kept ? 3 : 4);
        assert_near(sent * (1 << 20), (narrow ? 6 : 8) * rows * 64 + 4 * statistics, 1);
        assert_near(json_number_value(json_object_get(r, "two_matrix_sent_mib")) * (1 << 20),
                    4 * 4 * rows * 64, 1);
        assert_true(isfinite(json_number_value(json_object_get(r, "loss"))));
        json_decref(r);
    }
}
#endif

static int setup(void **state) {
    (void)state;
    train(0, 1, "one", "");
    if (ranks_possible(NULL) >= 2) train(2, 1, "two", "");
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
#if defined TEST_CUDA
        cmocka_unit_test(test_alone),
        cmocka_unit_test(test_slurm),
        cmocka_unit_test(test_mpirun),
#else
        cmocka_unit_test(test_simulated_share),
#endif
        cmocka_unit_test(test_two),
        cmocka_unit_test(test_three),
        cmocka_unit_test(test_four),
        cmocka_unit_test(test_sharded),
        cmocka_unit_test(test_sharded_masters),
        cmocka_unit_test(test_siglip),
        cmocka_unit_test(test_gather_bf16),
        cmocka_unit_test(test_resume),
        cmocka_unit_test(test_evaluation),
    };
    return cmocka_run_group_tests_name("ranks", tests, setup, NULL);
}
