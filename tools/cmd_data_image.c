/* clipc data image: image files → the model's input, as one .npy. */
#include "data/image/augment.h"
#include "data/io/file.h"
#include "data/tensors/npy.h"
#include "kernels/rng.h"
#include "tools/commands.h"
#include "tools/common.h"
#include "train/options.h"

#include <stdlib.h>

enum { MAX_FILE = 256 << 20 };

static int64_t size = 224, seed;

#define VIEWS(X) X(VIEW_EVAL, "eval") X(VIEW_TRAIN, "train")
static enum { VIEWS(CHOICE_NAME) } transform;
static ResizeMode resize_mode;
static Interpolation interpolation;
static const char *out_path;

static Option options[] = {
    PICTURE_OPTIONS,
    INT("size", &size, 1, 4096, "S: the picture is S x S"),
    CHOICE("transform", &transform, VIEWS,
           "eval: resize and centre crop; train: random crop, then resize"),
    CHOICE("image-resize-mode", &resize_mode, RESIZE_MODES,
           "of eval: the edge that becomes S (longest: padded with black), or both"),
    CHOICE("image-interpolation", &interpolation, INTERPOLATIONS, "of the resampler"),
    INT("seed", &seed, 0, 0, "of train's random crops"),
    STRING("out", &out_path, "X.npy", "float32 [files, 3, S, S], normalised"),
};

static const Command command = {
    "data image",
    "Write the pixels that a model sees of image files, to compare with another program's.",
    "clipc data image FILE... --out X.npy [--size 224] [--transform eval|train]",
    "  clipc data image a.jpg b.png --size 224 --transform eval --out pixels.npy\n",
    options,
    COUNT(options),
};

static void read_image(Image *img, const char *path) {
    Error err;
    uint8_t *bytes;
    size_t n;
    if (!file_read_all(path, &bytes, &n, MAX_FILE, &err)) die("%s; nothing was written", err.text);
    if (!image_decode(img, bytes, n, (size_t)image_max_pixels, &err))
        die("%s: %s; nothing was written", path, err.text);
    free(bytes);
}

int cmd_data_image(int argc, char **argv) {
    static StringList files;
    options_parse(&command, argc, argv, &files);
    expand_image_files(&files);
    if (files.count == 0) die_usage("clipc data image: no image file is given");
    if (!out_path) die_usage("clipc data image: --out is missing (the .npy to write)");
    Transform t = transform_default((int)size, transform == VIEW_TRAIN);
    t.resize_mode = resize_mode;
    t.interpolation = interpolation;
    size_t S = (size_t)size, each = 3 * S * S;
    float *pixels = xmalloc(size_mul(files.count, each * sizeof *pixels));
    uint8_t *rgb = xmalloc(each);
    Image img = {0};
    TransformScratch *scratch = NULL;
    for (size_t i = 0; i < files.count; i++) {
        read_image(&img, files.items[i]);
        transform_apply(rgb, &img, &t, rng_mix((uint64_t)seed, i), &scratch);
        transform_normalise(pixels + i * each, rgb, &t);
    }
    Error err;
    if (!npy_write_f32(out_path, pixels, (size_t[]){files.count, 3, S, S}, 4, &err))
        die("%s", err.text);
    transform_scratch_free(&scratch);
    image_free(&img);
    FREE_ALL(rgb, pixels);
    return EXIT_OK;
}
