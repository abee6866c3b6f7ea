/* Any bytes as a tar that is read once: samples with an image and one caption, or a reason. */
#include "data/tarstream.h"
#include "tests/fuzz/memory_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    if (n < 1) return 0;
    CaptionKeys captions;
    Error err = {""};
    if (!caption_keys_parse(&captions, bytes[0] & 1 ? "txt;json.text" : "cls:2,json.a.b", &err))
        abort();
    const TarStreamOptions o = {"jpg;png;webp", &captions, (CaptionPick)(bytes[0] / 2 % 4), 10,
                                NULL};
    SourceItem item = {&source_tar, (char *)memory_file(bytes + 1, n - 1), 0};
    TarStream *t = tarstream_open(&item, 3, &o, &err);
    if (!t && !*err.text) abort();
    const uint64_t seed = bytes[0];
    StreamSample *s;
    TarStreamStatus status = t ? TARSTREAM_SAMPLE : TARSTREAM_END;
    for (uint64_t i = 0; status == TARSTREAM_SAMPLE; i++) {
        err.text[0] = 0;
        status = tarstream_next(t, bytes[0] & 32 ? &seed : NULL, &s, &err);
        if (status == TARSTREAM_FAILED && !*err.text) abort();
        if (status != TARSTREAM_SAMPLE) break;
        if (s->number != (3ull << 32 | i) || !s->s.key || !s->s.image_size) abort();
        if (s->bad ? !*s->why.text : !s->s.text_size || s->s.text[s->s.text_size]) abort();
        stream_sample_release(s);
    }
    if (t && tarstream_next(t, NULL, &s, &err) != TARSTREAM_END) abort();
    tarstream_close(t);
    caption_keys_free(&captions);
    return 0;
}
