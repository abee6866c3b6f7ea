/* Zero-shot classification against open_clip (tests/golden/make_zeroshot.py), and that batch size
 * and threads change nothing. */
#include "tests/support_data.h"
#include "data/tensors/npy.h"
#include "data/image/thumbnail.h"
#include "eval/html.h"
#include "eval/zeroshot_report.h"

#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MODEL "tests/golden/openclip"
#define GOLDEN "tests/golden/zeroshot"
enum { IMAGES = 24, CLASSES = 8, TEMPLATES = 5 };

static Encoder *open_model(int64_t batch) {
    return encoder_open(&(EncoderOptions){.checkpoint = MODEL,
                                          .vocab = MODEL "/vocab.txt",
                                          .device = DEVICE_CPU,
                                          .precision = PRECISION_FP32,
                                          .batch_size = batch});
}

static float *golden(const char *path, size_t rows, size_t cols) {
    size_t n, m;
    float *data = read_npy(path, &n, &m);
    assert_int_equal(n, rows);
    assert_int_equal(m, cols);
    return data;
}

static double worst(const float *a, const float *b, size_t n) {
    double most = 0;
    for (size_t i = 0; i < n; i++) most = fmax(most, fabs((double)a[i] - b[i]));
    return most;
}

/* Three pictures of each colour, with the colour as a name or its number. */
static Dataset *open_pictures(const char *name) {
    static const char *const colours[] = {"red",   "green", "BLUE",   "yellow",
                                          "black", "white", "orange", "purple"};
    char here[512], line[700];
    FILE *f = fopen(test_path(name), "w");
    assert_non_null(getcwd(here, sizeof here));
    fputs("filepath\tclass\n", f);
    for (int i = 0; i < IMAGES; i++) {
        if (i % 2)
            snprintf(line, sizeof line, "%d", i / 3);
        else
            snprintf(line, sizeof line, "%s", colours[i / 3]);
        fprintf(f, "%s/" MODEL "/%02d.jpg\t%s\n", here, i, line);
    }
    fclose(f);
    DatasetOptions o = dataset_options_default();
    labels_dataset_options(&o, "cls;json.label", "class");
    return open_data_set(test_path(name), &o);
}

typedef struct Outcome {
    ClassSet set;
    Classifier classifier;
    Predictions predictions;
    float images[IMAGES * 40];
} Outcome;

typedef struct Files {
    char *paths[IMAGES];
} Files;

static bool fetch(void *context, size_t i, Image *img, Error *err) {
    size_t n;
    char *bytes = test_read_file(((Files *)context)->paths[i], &n);
    bool ok = image_decode(img, (uint8_t *)bytes, n, IMAGE_MAX_PIXELS, err);
    free(bytes);
    return ok;
}

static void evaluate(Outcome *o, int64_t batch, int threads) {
    omp_set_num_threads(threads);
    Encoder *e = open_model(batch);
    const Comm *c = comm_self(encoder_kernels(e));
    Dataset *d = open_pictures("pictures.tsv");
    Labels labels;
    Files files;
    bool ok[IMAGES];
    Error err;
    assert_true(class_set_load(&o->set, GOLDEN "/classes.json", &err));
    labels_open(&labels, &o->set, d);
    classifier_build(&o->classifier, e, c, &o->set, true);
    zeroshot_predict(&o->predictions, e, c, d, &labels, &o->classifier);
    for (int i = 0; i < IMAGES; i++) files.paths[i] = xasprintf(MODEL "/%02d.jpg", i);
    assert_int_equal(encoder_dim(e), 40);
    assert_int_equal(encoder_images(e, fetch, &files, IMAGES, o->images, ok), IMAGES);
    for (int i = 0; i < IMAGES; i++) free(files.paths[i]);
    labels_free(&labels);
    dataset_close(d);
    encoder_close(e);
}

static void outcome_free(Outcome *o) {
    predictions_free(&o->predictions);
    classifier_free(&o->classifier);
    class_set_free(&o->set);
}

static void test_against_open_clip(void **state) {
    (void)state;
    Outcome o;
    evaluate(&o, 64, 2);
    float *weights = golden(GOLDEN "/weights.npy", CLASSES, 40);
    double difference = worst(o.classifier.weights, weights, CLASSES * 40);
    print_message("weights: largest difference %.2e\n", difference);
    assert_near(difference, 0, 1e-6);
    free(weights);
    float *top = golden(GOLDEN "/top5.npy", IMAGES, 5);
    assert_int_equal(o.predictions.count, IMAGES);
    for (size_t i = 0; i < IMAGES; i++) {
        assert_int_equal(o.predictions.list[i].sample, i);
        assert_int_equal(o.predictions.list[i].label, i / 3);
        for (size_t h = 0; h < 5; h++)
            assert_int_equal(o.predictions.list[i].top[h], (int)top[i * 5 + h]);
    }
    free(top);
    ZeroshotReport r;
    zeroshot_report(&r, &o.predictions, CLASSES);
    assert_near(r.top1, 0.125, 1e-12);
    assert_near(r.top5, 0.625, 1e-12);
    zeroshot_report_free(&r);
    outcome_free(&o);
}

/* One template's hits, counted from that template's own weights. */
static void test_each_template(void **state) {
    (void)state;
    Outcome o;
    evaluate(&o, 7, 2);
    assert_int_equal(o.predictions.templates, TEMPLATES);
    const Classifier *w = &o.classifier;
    for (size_t t = 0; t < TEMPLATES; t++) {
        size_t right = 0;
        for (size_t i = 0; i < IMAGES; i++) {
            size_t best = 0;
            double scores[CLASSES] = {0};
            for (size_t c = 0; c < CLASSES; c++) {
                const float *row = w->of_single + (t * CLASSES + c) * 40;
                for (size_t j = 0; j < 40; j++) scores[c] += (double)row[j] * o.images[i * 40 + j];
                if (scores[c] > scores[best]) best = c;
            }
            right += best == i / 3;
        }
        assert_int_equal(o.predictions.right[t], right);
    }
    /* the mean of the templates' weights, normalised, is the ensemble's */
    for (size_t c = 0; c < CLASSES; c++) {
        double mean[40] = {0}, norm = 0;
        for (size_t j = 0; j < 40; j++) {
            for (size_t t = 0; t < TEMPLATES; t++)
                mean[j] += w->of_single[(t * CLASSES + c) * 40 + j] / (double)TEMPLATES;
            norm += mean[j] * mean[j];
        }
        for (size_t j = 0; j < 40; j++)
            assert_near(w->weights[c * 40 + j], mean[j] / sqrt(norm), 1e-6);
    }
    outcome_free(&o);
}

static void test_batch_and_threads(void **state) {
    (void)state;
    Outcome want, got;
    evaluate(&want, 64, 1);
    static const struct {
        int64_t batch;
        int threads;
    } cases[] = {{1, 1}, {5, 2}, {64, 3}, {23, 4}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        evaluate(&got, cases[i].batch, cases[i].threads);
        assert_memory_equal(got.images, want.images, IMAGES * 40 * sizeof *want.images);
        assert_memory_equal(got.classifier.weights, want.classifier.weights,
                            CLASSES * 40 * sizeof *want.classifier.weights);
        for (size_t j = 0; j < IMAGES; j++)
            assert_memory_equal(got.predictions.list[j].top, want.predictions.list[j].top,
                                sizeof want.predictions.list[j].top);
        assert_memory_equal(got.predictions.right, want.predictions.right,
                            TEMPLATES * sizeof(size_t));
        outcome_free(&got);
    }
    outcome_free(&want);
}

static void test_page(void **state) {
    (void)state;
    Outcome o;
    evaluate(&o, 64, 2);
    free(o.set.classes[0]);
    o.set.classes[0] = xstrdup("</script><b>&\"red");
    Dataset *d = open_pictures("pictures.tsv");
    ZeroshotReport r;
    Error err;
    zeroshot_report(&r, &o.predictions, CLASSES);
    assert_true(zeroshot_write_html(test_path("page.html"), "a <title>", &r, &o.predictions, &o.set,
                                    d, &err));
    char *page = test_read_file(test_path("page.html"), NULL);
    assert_non_null(strstr(page, "<h1>a &lt;title&gt;</h1>"));
    assert_non_null(strstr(page, "src=\"data:image/jpeg;base64,/9j/"));
    assert_non_null(strstr(page, "<td>&lt;/script&gt;&lt;b&gt;&amp;&quot;red"));
    assert_non_null(strstr(page, "a bad photo of the {}."));
    assert_null(strstr(page, "://")); /* nothing from elsewhere */
    /* every cell, with its count */
    size_t cells = 0, images = 0, named = 0;
    for (const char *at = page; (at = strstr(at, "<td class=n style=\"background")); at++) {
        cells++;
        images += strtoul(strchr(at, '>') + 1, NULL, 10);
    }
    for (const char *at = page; (at = strstr(at, "<th class=v>")); at++) named++;
    assert_int_equal(cells, r.cell_count);
    assert_int_equal(images, IMAGES);
    assert_int_equal(named, CLASSES);
    free(page);
    zeroshot_report_free(&r);
    /* of many classes a drawing */
    enum { MANY = 40 };
    char *names[MANY];
    for (size_t i = 0; i < MANY; i++) names[i] = i < CLASSES ? o.set.classes[i] : "none";
    ClassSet many = o.set;
    many.classes = names;
    many.count = MANY;
    zeroshot_report(&r, &o.predictions, MANY);
    assert_true(
        zeroshot_write_html(test_path("page.html"), "a", &r, &o.predictions, &many, d, &err));
    page = test_read_file(test_path("page.html"), NULL);
    assert_non_null(strstr(page, "\"\\u003c/script>\\u003cb>&\\\"red\""));
    assert_null(strstr(page, "<th class=v>"));
    cells = images = 0;
    for (const char *at = strstr(page, "const cells = [["); at; at = strstr(at + 1, "[")) {
        int truth, predicted;
        size_t count;
        if (sscanf(at, "const cells = [[%d,%d,%zu]", &truth, &predicted, &count) != 3 &&
            sscanf(at, "[%d,%d,%zu]", &truth, &predicted, &count) != 3)
            continue;
        if (*at == 'c') at = strstr(at, "[[") + 1;
        cells++;
        images += count;
        if (at[strcspn(at, "]") + 1] != ',') break;
    }
    assert_int_equal(cells, r.cell_count);
    assert_int_equal(images, IMAGES);
    free(page);
    assert_false(
        zeroshot_write_html(test_path("no/page.html"), "t", &r, &o.predictions, &o.set, d, &err));
    zeroshot_report_free(&r);
    dataset_close(d);
    outcome_free(&o);
}

/* No character of a key or a class can leave its place in the page. */
static void test_html_text(void **state) {
    (void)state;
    HtmlPage p;
    Error err;
    const char *path = test_path("text.html");
    assert_true(html_open(&p, path, "<t>", &err));
    html_text(&p, "a & b <i> \"c\" 'd' \xc3\xa9");
    html_picture(&p, (const uint8_t *)"foo", 3, "\" onload='x'>");
    assert_true(access(path, F_OK)); /* not there until it is whole */
    assert_true(html_close(&p, &err));
    char *page = test_read_file(path, NULL);
    assert_non_null(strstr(page, "<title>&lt;t&gt;</title>\n"
                                 "a &amp; b &lt;i&gt; &quot;c&quot; &#39;d&#39; \xc3\xa9"
                                 "<img src=\"data:image/jpeg;base64,Zm9v\" alt=\"\" "
                                 "title=\"&quot; onload=&#39;x&#39;&gt;\">\n</html>\n"));
    free(page);
    assert_false(html_open(&p, test_path("no/text.html"), "t", &err));
}

static void test_base64(void **state) {
    (void)state;
    static const struct {
        const char *bytes, *text; /* RFC 4648 */
    } cases[] = {{"", ""}, {"f", "Zg=="}, {"fo", "Zm8="}, {"foo", "Zm9v"}, {"foob", "Zm9vYg=="}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        char *text = base64_text((const uint8_t *)cases[i].bytes, strlen(cases[i].bytes));
        assert_string_equal(text, cases[i].text);
        free(text);
    }
    char *text = base64_text((const uint8_t *)"\xff\xff\xbe", 3);
    assert_string_equal(text, "//++");
    free(text);
}

static void test_thumbnail(void **state) {
    (void)state;
    size_t n, size;
    char *bytes = test_read_file(MODEL "/01.jpg", &n); /* 59 x 87 */
    Image img = {0};
    ResizeScratch *scratch = NULL;
    Error err;
    uint8_t *jpeg;
    int w, h;
    assert_true(image_decode(&img, (uint8_t *)bytes, n, IMAGE_MAX_PIXELS, &err));
    static const int cases[][3] = {{100, 59, 87}, {29, 20, 29}, {1, 1, 1}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        assert_true(thumbnail_jpeg(&jpeg, &size, &img, cases[i][0], &scratch, &err));
        assert_true(image_size(&w, &h, jpeg, size, &err));
        assert_int_equal(w, cases[i][1]);
        assert_int_equal(h, cases[i][2]);
        free(jpeg);
    }
    resize_scratch_free(&scratch);
    image_free(&img);
    free(bytes);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_open_clip), cmocka_unit_test(test_each_template),
        cmocka_unit_test(test_batch_and_threads), cmocka_unit_test(test_page),
        cmocka_unit_test(test_html_text),         cmocka_unit_test(test_base64),
        cmocka_unit_test(test_thumbnail),
    };
    return cmocka_run_group_tests_name("zeroshot", tests, NULL, NULL);
}
