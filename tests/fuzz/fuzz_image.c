/* One input is one image file: decodes it and transforms the picture. */
#include "data/image/augment.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    static Image img;
    static TransformScratch *scratch;
    enum { MAX_PIXELS = 1 << 16, S = 16 };
    uint8_t out[S * S * 3];
    Error err = {{0}};
    int width = 0, height = 0;
    image_exif = size % 2;
    image_background = size % 5 < 3 ? (Background)(size % 5) : BACKGROUND_STORED;
    bool has_size = image_size(&width, &height, bytes, size, &err);
    if (!image_decode(&img, bytes, size, MAX_PIXELS, &err)) {
        assert(err.text[0] != 0);
        return 0;
    }
    assert(has_size && width == img.width && height == img.height);
    assert((size_t)width * (size_t)height <= MAX_PIXELS);
    Transform t = transform_default(S, size % 2);
    t.resize_mode = size % 3 == 0   ? RESIZE_SHORTEST
                    : size % 3 == 1 ? RESIZE_LONGEST
                                    : RESIZE_SQUASH;
    transform_apply(out, &img, &t, size, &scratch);
    return 0;
}
