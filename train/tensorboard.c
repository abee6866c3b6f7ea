#include "train/tensorboard.h"

#include "data/io/crc32c.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* A file is a sequence of records: length, its CRC, an Event in protobuf's wire format, its CRC. */
struct Tensorboard {
    char *path;
    FILE *file;
};

static _Noreturn void cannot_write(const Tensorboard *t) {
    die("%s: %s: what this run reports would be lost", t->path, strerror(errno));
}

/* CRC-32C, rotated and offset as TFRecord files mask it. */
static uint32_t masked_crc(const unsigned char *bytes, size_t n) {
    uint32_t crc = crc32c(0, bytes, n);
    return (crc >> 15 | crc << 17) + 0xa282ead8u;
}

typedef struct Message {
    unsigned char bytes[1024];
    size_t size;
} Message;

static void put_bytes(Message *m, const void *bytes, size_t n) {
    assert(n <= sizeof m->bytes - m->size);
    memcpy(m->bytes + m->size, bytes, n);
    m->size += n;
}

static void put_varint(Message *m, uint64_t x) {
    for (; x >= 128; x >>= 7) put_bytes(m, &(unsigned char){(unsigned char)(x | 128)}, 1);
    put_bytes(m, &(unsigned char){(unsigned char)x}, 1);
}

/* Wire types: 0 varint, 1 eight bytes, 2 length and bytes, 5 four bytes. */
static void put_tag(Message *m, unsigned field, unsigned wire_type) {
    put_varint(m, field << 3 | wire_type);
}

static void put_block(Message *m, unsigned field, const void *bytes, size_t n) {
    put_tag(m, field, 2);
    put_varint(m, n);
    put_bytes(m, bytes, n);
}

/* Fields of tensorflow.Event that are used here. */
enum { EVENT_WALL_TIME = 1, EVENT_STEP, EVENT_VERSION, EVENT_SUMMARY = 5, EVENT_SESSION_LOG = 7 };

double wall_time(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void start_event(Message *m, uint64_t step) {
    double now = wall_time();
    m->size = 0;
    put_tag(m, EVENT_WALL_TIME, 1);
    put_bytes(m, &now, sizeof now);
    put_tag(m, EVENT_STEP, 0);
    put_varint(m, step);
}

static void write_event(Tensorboard *t, const Message *m) {
    unsigned char length[8];
    for (int i = 0; i < 8; i++) length[i] = (unsigned char)((uint64_t)m->size >> 8 * i);
    uint32_t head = masked_crc(length, sizeof length), body = masked_crc(m->bytes, m->size);
    fwrite(length, 1, sizeof length, t->file);
    fwrite(&head, sizeof head, 1, t->file);
    fwrite(m->bytes, 1, m->size, t->file);
    fwrite(&body, sizeof body, 1, t->file);
}

static void flush(Tensorboard *t) {
    if (fflush(t->file) || ferror(t->file)) cannot_write(t);
}

/* Summary { repeated Value { tag = 1, simple_value = 2 } value = 1 }. */
static void put_scalar(Message *summary, const char *tag, double x) {
    Message value = {.size = 0};
    put_block(&value, 1, tag, strlen(tag));
    put_tag(&value, 2, 5);
    put_bytes(&value, &(float){(float)x}, sizeof(float));
    put_block(summary, 1, value.bytes, value.size);
}

/* The session start makes TensorBoard drop this step and later ones from earlier files of a killed
 * run. */
Tensorboard *tensorboard_open(const char *folder, uint64_t first_step) {
    Tensorboard *t = xcalloc(1, sizeof *t);
    char host[64] = "host";
    gethostname(host, sizeof host - 1);
    /* two starts of a run may be in the same second */
    for (int i = 0;; i++) {
        t->path = xasprintf("%s/events.out.tfevents.%010lld.%s.%ld.%d", folder,
                            (long long)time(NULL), host, (long)getpid(), i);
        t->file = fopen(t->path, "wbx");
        if (t->file) break;
        if (errno != EEXIST) cannot_write(t);
        free(t->path);
    }
    Message m;
    static const char version[] = "brain.Event:2";
    start_event(&m, 0);
    put_block(&m, EVENT_VERSION, version, sizeof version - 1);
    write_event(t, &m);
    static const unsigned char start_status[] = {1 << 3, 1};
    start_event(&m, first_step);
    put_block(&m, EVENT_SESSION_LOG, start_status, sizeof start_status);
    write_event(t, &m);
    flush(t);
    return t;
}

void tensorboard_write(Tensorboard *t, uint64_t step, const Scalar *list, size_t count) {
    Message event, summary = {.size = 0};
    for (size_t i = 0; i < count; i++) put_scalar(&summary, list[i].tag, list[i].value);
    start_event(&event, step);
    put_block(&event, EVENT_SUMMARY, summary.bytes, summary.size);
    write_event(t, &event);
    flush(t);
}

void tensorboard_close(Tensorboard *t) {
    if (fclose(t->file)) cannot_write(t);
    FREE_ALL(t->path, t);
}
