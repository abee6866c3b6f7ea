#include "data/pack_report.h"

#include <jansson.h>
#include <string.h>

const unsigned pack_bins[PACK_BINS] = {0, 10, 20, 30, 40, 60, 80, 120, 160, 240};

static const struct {
    const char *name;
    size_t offset;
} fields[] = {
#define FIELD(name)                                                                                \
    { #name, offsetof(PackReport, name) }
    FIELD(samples),   FIELD(shards),     FIELD(bytes),          FIELD(image_bytes),
    FIELD(shrunk),    FIELD(unreadable), FIELD(no_caption),     FIELD(short_caption),
    FIELD(too_large), FIELD(duplicate),  FIELD(not_downloaded),
#undef FIELD
};

static uint64_t *field(PackReport *r, size_t i) {
    return (uint64_t *)((char *)r + fields[i].offset);
}

void pack_report_caption(PackReport *r, size_t characters) {
    size_t i = PACK_BINS - 1;
    while (i > 0 && pack_bins[i] > characters) i--;
    r->histogram[i]++;
}

uint64_t pack_report_rejected(const PackReport *r) {
    return r->unreadable + r->no_caption + r->short_caption + r->too_large + r->duplicate +
           r->not_downloaded;
}

json_t *pack_report_to_json(const PackReport *r) {
    json_t *o = json_object(), *bins = json_array();
    PackReport copy = *r;
    for (size_t i = 0; i < COUNT(fields); i++)
        json_object_set_new(o, fields[i].name, json_integer((json_int_t)*field(&copy, i)));
    for (size_t i = 0; i < PACK_BINS; i++)
        json_array_append_new(bins, json_pack("{sI sI}", "from", (json_int_t)pack_bins[i],
                                              "captions", (json_int_t)r->histogram[i]));
    json_object_set_new(o, "caption_characters", bins);
    return o;
}

bool pack_report_from_json(PackReport *r, const json_t *json) {
    const json_t *bins = json_object_get(json, "caption_characters");
    memset(r, 0, sizeof *r);
    for (size_t i = 0; i < COUNT(fields); i++) {
        const json_t *v = json_object_get(json, fields[i].name);
        if (!json_is_integer(v) || json_integer_value(v) < 0) return false;
        *field(r, i) = (uint64_t)json_integer_value(v);
    }
    for (size_t i = 0; i < PACK_BINS; i++) {
        const json_t *v = json_object_get(json_array_get(bins, i), "captions");
        if (!json_is_integer(v) || json_integer_value(v) < 0) return false;
        r->histogram[i] = (uint64_t)json_integer_value(v);
    }
    return true;
}
