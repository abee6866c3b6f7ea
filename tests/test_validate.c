/* Validation in training: the best step, the schedule of validators, the state in a checkpoint. */
#include "tests/support.h"
#include "tests/support_model.h"
#include "train/validate.h"

#include <math.h>
#include <string.h>

static Metrics metrics_of(double loss, double recall) {
    Metrics m = {.count = 0};
    metrics_add(&m, "val/loss", loss, true);
    metrics_add(&m, "val/recall", recall, false);
    return m;
}

static bool update(Best *b, double loss, double recall, const char *name, uint64_t step) {
    Metrics m = metrics_of(loss, recall);
    return best_update(b, &m, name, step);
}

static void best_of_the_first(void **state) {
    (void)state;
    Best b = {.metric = ""};
    assert_true(update(&b, 2, 0, NULL, 10));
    assert_string_equal(b.metric, "val/loss");
    assert_false(update(&b, 2, 1, NULL, 20)); /* equal is no better */
    assert_false(update(&b, 3, 1, NULL, 30));
    assert_int_equal(b.stale, 2);
    assert_true(update(&b, 1.5, 0, NULL, 40));
    assert_true(b.stale == 0 && b.step == 40 && b.value == 1.5);
}

static void best_of_a_name(void **state) {
    (void)state;
    Best b = {.metric = ""};
    assert_true(update(&b, 1, 0.25, "val/recall", 10));
    assert_true(update(&b, 2, 0.5, "val/recall", 20));
    assert_false(update(&b, 0, 0.4, "val/recall", 30));
    Metrics none = {.count = 0};
    assert_false(best_update(&b, &none, "val/recall", 40));
    assert_int_equal(b.stale, 1); /* a metric that was not measured is no failure */
    assert_true(update(&b, 9, 0, "val/loss", 50)); /* another metric starts anew */
    assert_true(b.value == 9 && b.step == 50);
}

static void best_is_finite(void **state) {
    (void)state;
    Best b = {.metric = ""};
    assert_false(update(&b, NAN, 0, NULL, 10));
    assert_int_equal(b.stale, 1);
    assert_true(update(&b, 5, 0, NULL, 20));
    assert_false(update(&b, -INFINITY, 0, NULL, 30));
    assert_false(update(&b, NAN, 0, NULL, 40));
    assert_true(b.value == 5 && b.stale == 2);
}

/* ---- the schedule ---- */

static struct Asked {
    bool wanted;
    int prepared, opened, planned, ran, closed;
} asked[2];

static bool want0(void) { return asked[0].wanted; }
static bool want1(void) { return asked[1].wanted; }
static void *prepare0(const Comm *c, const DatasetOptions *data) {
    assert_true(c && !data);
    asked[0].prepared++;
    return &asked[0];
}
static void *prepare1(const Comm *c, const DatasetOptions *data) {
    (void)c, (void)data;
    asked[1].prepared++;
    return &asked[1];
}
static void opened(void *self, const TrainView *v) {
    assert_int_equal(v->batch, 7);
    ((struct Asked *)self)->opened++;
}
static void planned(void *self, const TrainView *v) {
    ((struct Asked *)self)->planned += v->batch == 7;
}
static bool due3(const TrainState *s) { return s->step % 3 == 0; }
static bool due_epoch(const TrainState *s) { return s->position == 0; }
static void ran(void *self, const TrainView *v, Metrics *m) {
    (void)v;
    struct Asked *a = self;
    a->ran++;
    metrics_add(m, a == asked ? "a" : "b", a->ran, true);
}
static void closed(void *self) { ((struct Asked *)self)->closed++; }

static void asked_when_due(void **state) {
    (void)state;
    static const char *const names[] = {NULL};
    static const Validator a = {want0, names, prepare0, opened, planned, due3, ran, closed},
                           b = {want1, names, prepare1, opened, planned, due_epoch, ran, closed};
    const Validator *const list[] = {&a, &b};
    const Kernels *k = kernels_open("ref", PRECISION_FP32);
    OptimState none = {.ema = NULL};
    TrainView view = {.k = k, .comm = comm_self(k), .state = &none, .batch = 7};
    assert_null(validation_prepare(list, 2, view.comm, NULL));
    validation_open(NULL, &view);
    assert_false(validation_run(NULL, &(TrainState){.step = 3}, true, &(Metrics){0}));
    asked[0].wanted = asked[1].wanted = true;
    Validation *v = validation_prepare(list, 2, view.comm, NULL);
    validation_open(v, &view);
    Metrics m;
    validation_plan(v);
    assert_true(asked[0].planned == 1 && asked[1].planned == 1);
    assert_false(validation_run(v, &(TrainState){.step = 1, .position = 4}, false, &m));
    assert_true(validation_run(v, &(TrainState){.step = 3, .position = 4}, false, &m));
    assert_true(m.count == 1 && !m.complete && metrics_find(&m, "a") && !metrics_find(&m, "b"));
    assert_true(validation_run(v, &(TrainState){.step = 4}, false, &m));
    assert_true(m.count == 1 && metrics_find(&m, "b")->value == 1);
    assert_true(validation_run(v, &(TrainState){.step = 5, .position = 4}, true, &m));
    assert_true(m.count == 2 && m.complete && asked[0].ran == 2 && asked[1].ran == 2);
    validation_close(v);
    assert_true(asked[0].prepared == 1 && asked[0].opened == 1 && asked[0].closed == 1 &&
                asked[1].closed == 1);
}

static void checkpoint_remembers(void **state) {
    (void)state;
    const Kernels *k = kernels_open("cpu", PRECISION_FP32);
    static const char json[] =
        "{\"embed_dim\": 5, \"vision_cfg\": {\"image_size\": 4, \"layers\": 1, \"width\": 4, "
        "\"head_width\": 4, \"patch_size\": 2}, \"text_cfg\": {\"context_length\": 4, "
        "\"vocab_size\": "
        "11, \"width\": 4, \"heads\": 1, \"layers\": 1}}";
    ClipConfig c;
    Error err;
    assert_true(clip_config_parse(&c, "small-vit", json, sizeof json - 1, &err));
    OptimState *o = state_new(k, &c, NULL);
    TrainState s = {.step = 9, .best = {"val/loss", 0.1 + 0.2, 7, 2}}, t;
    checkpoint_save(test_path("best"), "step_9", o, &c, &s, NULL);
    assert_true(checkpoint_load_state(test_path("best/step_9"), NULL, &t));
    assert_true(t.best.value == s.best.value && t.best.step == 7 && t.best.stale == 2);
    assert_string_equal(t.best.metric, "val/loss");
    s.best = (Best){.metric = ""};
    checkpoint_save(test_path("best"), "step_10", o, &c, &s, NULL);
    assert_true(checkpoint_load_state(test_path("best/step_10"), NULL, &t));
    assert_true(!*t.best.metric && t.best.step == 0);
    state_free(o);
    clip_config_free(&c);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(best_of_the_first),    cmocka_unit_test(best_of_a_name),
    cmocka_unit_test(best_is_finite),       cmocka_unit_test(asked_when_due),
    cmocka_unit_test(checkpoint_remembers),
};

int main(void) { return cmocka_run_group_tests_name("validate", tests, NULL, NULL); }
