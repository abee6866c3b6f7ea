/* PyTorch's files: the restricted pickle reader, the archive around it. Anything except plain data
 * is refused by name; no bytes make it use unbounded memory. */
#include "tests/support.h"
#include "data/tensors/pickle.h"
#include "data/tensors/torchfile.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

/* ---- pickles ---- */

#define P2 "\x80\x02"
#define BYTES(s) (const unsigned char *)(s), sizeof(s) - 1

static void accepted(Pickle *p, const unsigned char *bytes, size_t n) {
    Error err = {""};
    if (!pickle_parse(p, bytes, n, &err)) fail_msg("%s", err.text);
}

static void refused(const unsigned char *bytes, size_t n, const char *needle) {
    Pickle p;
    Error err = {""};
    assert_false(pickle_parse(&p, bytes, n, &err));
    if (!strstr(err.text, needle)) fail_msg("no '%s' in: %s", needle, err.text);
    assert_null(p.all);
}

static void test_plain_values(void **state) {
    (void)state;
    Pickle p;
    /* {"a": -2, "b": [True, None, 2.5, ("x",)], "c": 70000, "d": -1 as a long, "e": 65535} */
    static const char pickle[] = P2 "}q\x01("
                                    "X\1\0\0\0aq\2J\xfe\xff\xff\xff"
                                    "X\1\0\0\0b](\x88NG@\4\0\0\0\0\0\0X\1\0\0\0x\x85"
                                    "e"
                                    "X\1\0\0\0cJ\x70\x11\1\0"
                                    "X\1\0\0\0d\x8a\1\xff"
                                    "X\1\0\0\0eM\xff\xff"
                                    "u.";
    accepted(&p, BYTES(pickle));
    assert_int_equal(p.root->kind, PICKLE_DICT);
    assert_int_equal(pickle_get(p.root, "a")->integer, -2);
    assert_int_equal(pickle_get(p.root, "c")->integer, 70000);
    assert_int_equal(pickle_get(p.root, "d")->integer, -1);
    assert_int_equal(pickle_get(p.root, "e")->integer, 65535);
    const PickleValue *b = pickle_get(p.root, "b");
    assert_int_equal(b->kind, PICKLE_LIST);
    assert_int_equal(b->count, 4);
    assert_int_equal(b->items[0]->integer, 1);
    assert_int_equal(b->items[1]->kind, PICKLE_NONE);
    assert_near(b->items[2]->number, 2.5, 0);
    assert_string_equal(b->items[3]->items[0]->text, "x");
    assert_null(pickle_get(p.root, "f"));
    pickle_free(&p);
    for (size_t cut = 0; cut < sizeof pickle - 1; cut++)
        refused((const unsigned char *)pickle, cut, "pickle");
    /* a state dict: an OrderedDict with an attribute, through the memo */
    accepted(&p, BYTES(P2 "ccollections\nOrderedDict\nq\0)Rq\1X\1\0\0\0kK\5s"
                          "}X\x09\0\0\0_metadatah\0)Rsb."));
    assert_int_equal(p.root->count, 2);
    assert_int_equal(pickle_get(p.root, "k")->integer, 5);
    pickle_free(&p);
    /* OrderedDict([["k", 7]]), as old writers have it; protocol 4's opcodes */
    accepted(&p, BYTES("\x80\x04\x95\x10\0\0\0\0\0\0\0\x8c\x0b"
                       "collections\x94\x8c\x0bOrderedDict\x94\x93\x94](](\x8c\1kK\7ee\x85R."));
    assert_int_equal(pickle_get(p.root, "k")->integer, 7);
    pickle_free(&p);
}

static void test_code_is_refused(void **state) {
    (void)state;
    refused(BYTES(P2 "cposix\nsystem\nX\4\0\0\0true\x85R."), "refused: it names posix.system");
    refused(BYTES(P2 "c__builtin__\neval\n."), "__builtin__.eval");
    refused(BYTES("\x80\x04\x8c\x02os\x8c\x06system\x93."), "refused: it names os.system");
    refused(BYTES("\x80\x04\x8c\x05torch\x8c\x04load\x93."), "torch.load");
    refused(BYTES(P2 "ctorch.nn.modules.linear\nLinear\n)\x81."), "torch.nn.modules.linear.Linear");
    /* a name of the list is no licence to call it */
    refused(BYTES(P2 "ctorch\nFloatStorage\n)R."), "refused: it calls torch FloatStorage");
    refused(BYTES(P2 "c__torch__\nM\n)R."), "refused: it calls __torch__ M");
    refused(BYTES(P2 "ccollections\nOrderedDict\n)\x81."), "refused: it calls");
    refused(BYTES(P2 "K\1)R."), "refused: it calls");
    /* __torch__ begins a module's name, not any name */
    refused(BYTES(P2 "c__torch__evil\nM\n."), "refused: it names __torch__evil.M");
    /* opcodes that instantiate (INST, OBJ, NEWOBJ_EX) and the text protocol */
    refused(BYTES(P2 "(iposix\nsystem\n."), "opcode 0x69");
    refused(BYTES(P2 "(c__torch__\nM\no."), "opcode 0x6f");
    refused(BYTES(P2 "c__torch__\nM\n)}\x92."), "opcode 0x92");
    refused(BYTES("cposix\nsystem\n(S'true'\ntR."), "protocol");
    refused(BYTES("\x80\x05N."), "protocol 5");
}

static void test_malformed(void **state) {
    (void)state;
    refused(BYTES(P2 "."), "what is not there");
    refused(BYTES(P2 "NN."), "left over");
    refused(BYTES(P2 "(N."), "left over");
    refused(BYTES(P2 "(0."), "what is not there");
    refused(BYTES(P2 "Nt."), "mark");
    refused(BYTES(P2 "}K\1(K\1\x85u."), "dictionary");
    refused(BYTES(P2 "}(K\1u."), "dictionary");
    refused(BYTES(P2 "(e."), "what is not there");
    refused(BYTES(P2 "}K\1a."), "list");
    refused(BYTES(P2 "h\1."), "memo 1 is empty");
    refused(BYTES(P2 "Nr\xff\xff\xff\x7f."), "memo");
    refused(BYTES(P2 "X\xff\xff\xff\xffx."), "truncated");
    refused(BYTES("\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\xffx."), "truncated");
    refused(BYTES(P2 "X\1\0\0\0\xc0."), "UTF-8");
    refused(BYTES(P2 "X\2\0\0\0a\0."), "UTF-8");
    refused(BYTES(P2 "K\1}b."), "no module");
    refused(BYTES(P2 "K\1Q."), "storage");
    refused(BYTES(P2 "(X\7\0\0\0storagectorch\nSize\nX\1\0\0\0"
                     "0X\3\0\0\0cpuK\1tQ."),
            "storage");
    refused(BYTES(P2 "ctorch._utils\n_rebuild_tensor_v2\n(K\1K\0))tR."), "a tensor");
    refused(BYTES(P2 "ctorch\nSize\n)R."), "calls torch Size");
    refused(BYTES(P2 "ccollections\nOrderedDict\n](K\1e\x85R."), "OrderedDict");
    refused(BYTES(P2 "\x8a\x09\1\2\3\4\5\6\7\x08\x09."), "9 bytes");
}

/* Lists that hold themselves are parsed (and freed); copies of shared values must not multiply. */
static void test_bounded(void **state) {
    (void)state;
    Pickle p;
    accepted(&p, BYTES(P2 "]q\1h\1a."));
    assert_ptr_equal(p.root->items[0], p.root);
    pickle_free(&p);
    size_t n = 0, pairs = 2000;
    unsigned char *bytes = malloc(100000);
    n += (size_t)sprintf((char *)bytes, P2 "ccollections\nOrderedDict\nq%c](", 1);
    for (size_t i = 0; i < pairs; i++) n += (size_t)sprintf((char *)bytes + n, "NN\x86");
    n += (size_t)sprintf((char *)bytes + n, "e\x85q\2");
    for (size_t i = 0; i < pairs; i++) n += (size_t)sprintf((char *)bytes + n, "0h\1h\2R");
    bytes[n++] = '.';
    refused(bytes, n, "multiply");
    free(bytes);
    bytes = calloc(1, (4 << 20) + 1);
    refused(bytes, (4 << 20) + 1, "too many");
    free(bytes);
}

/* ---- archives ---- */

typedef struct Member {
    const char *name;
    const void *data;
    size_t size;
    uint16_t method;
    uint32_t crc; /* 0: the true one */
} Member;

typedef struct Buffer {
    unsigned char bytes[1 << 16];
    size_t n;
} Buffer;

static void put(Buffer *b, uint64_t x, size_t n) {
    for (size_t i = 0; i < n; i++) b->bytes[b->n++] = (unsigned char)(i < 8 ? x >> 8 * i : 0);
}

static void put_bytes(Buffer *b, const void *data, size_t n) {
    if (n) memcpy(b->bytes + b->n, data, n);
    b->n += n;
}

static void put_common(Buffer *b, const Member *m) {
    uint32_t crc = m->crc ? m->crc : (uint32_t)crc32(0, m->data, (unsigned)m->size);
    put(b, 20, 2), put(b, 0, 2), put(b, m->method, 2), put(b, 0, 4), put(b, crc, 4);
    put(b, m->size, 4), put(b, m->size, 4), put(b, strlen(m->name), 2);
}

static void make_zip(Buffer *b, const Member *m, size_t count) {
    size_t at[16];
    b->n = 0;
    for (size_t i = 0; i < count; i++) {
        at[i] = b->n;
        put(b, 0x04034b50, 4), put_common(b, &m[i]), put(b, 0, 2);
        put_bytes(b, m[i].name, strlen(m[i].name));
        put_bytes(b, m[i].data, m[i].size);
    }
    size_t start = b->n;
    for (size_t i = 0; i < count; i++) {
        put(b, 0x02014b50, 4), put(b, 20, 2), put_common(b, &m[i]);
        put(b, 0, 2), put(b, 0, 2), put(b, 0, 2), put(b, 0, 2), put(b, 0, 4), put(b, at[i], 4);
        put_bytes(b, m[i].name, strlen(m[i].name));
    }
    size_t size = b->n - start;
    put(b, 0x06054b50, 4), put(b, 0, 4), put(b, count, 2), put(b, count, 2), put(b, size, 4);
    put(b, start, 4), put(b, 0, 2);
}

static void zip_refused(const Buffer *b, const char *needle) {
    Zip z;
    Error err = {""};
    assert_false(zip_open(&z, b->bytes, b->n, &err));
    if (!strstr(err.text, needle)) fail_msg("no '%s' in: %s", needle, err.text);
}

static void test_zip(void **state) {
    (void)state;
    static Buffer b;
    const Member two[] = {{"a/one", "first", 5, 0, 0}, {"two", "packed", 6, 8, 0}};
    make_zip(&b, two, 2);
    Zip z;
    Error err;
    assert_true(zip_open(&z, b.bytes, b.n, &err));
    assert_int_equal(z.count, 2);
    const ZipMember *one = zip_find(&z, "a/one");
    assert_memory_equal(one->data, "first", 5);
    assert_true(zip_verify(one, &err));
    assert_false(zip_find(&z, "two")->stored);
    assert_null(zip_find(&z, "three"));
    zip_close(&z);
    memcpy(memmem(b.bytes, b.n, "first", 5), "F", 1);
    assert_true(zip_open(&z, b.bytes, b.n, &err));
    assert_false(zip_verify(zip_find(&z, "a/one"), &err));
    assert_non_null(strstr(err.text, "a/one has the checksum"));
    zip_close(&z);
    size_t n = b.n, directory = (size_t)(memmem(b.bytes, n, "PK\1\2", 4) - (void *)b.bytes);
    for (b.n = 0; b.n < n; b.n++) zip_refused(&b, "zip");
    /* offset, size and count of the directory; sizes and offset of the first entry */
    static const struct {
        size_t from_end, from_directory;
        const char *says;
    } bad[] = {{3, 0, "outside"},    {7, 0, "outside"},  {12, 0, "members"},
               {0, 20, "outside"},   {0, 24, "outside"}, {0, 42, "is not where"},
               {0, 28, "directory"}, {0, 1, "directory"}};
    for (size_t i = 0; i < COUNT(bad); i++) {
        size_t at = bad[i].from_end ? n - bad[i].from_end : directory + bad[i].from_directory;
        unsigned char was = b.bytes[at];
        b.bytes[at] ^= 0x40;
        if (bad[i].from_end == 12) b.bytes[at] = 3; /* entries */
        zip_refused(&b, bad[i].says);
        b.bytes[at] = was;
    }
}

/* Sizes and place of a member, and those of the directory, in 64 bits. */
static void test_zip64(void **state) {
    (void)state;
    static Buffer b;
    b.n = 0;
    put(&b, 0x04034b50, 4), put(&b, 45, 2), put(&b, 0, 12), put(&b, 0xffffffff, 4);
    put(&b, 0xffffffff, 4), put(&b, 1, 2), put(&b, 0, 2);
    put_bytes(&b, "adata!", 6);
    size_t start = b.n;
    put(&b, 0x02014b50, 4), put(&b, 45, 2), put(&b, 45, 2), put(&b, 0, 12);
    put(&b, 0xffffffff, 4), put(&b, 0xffffffff, 4), put(&b, 1, 2), put(&b, 4 + 5 + 4 + 24, 2);
    put(&b, 0, 10), put(&b, 0xffffffff, 4);
    put_bytes(&b, "a", 1);
    put(&b, 0x5455, 2), put(&b, 5, 2), put(&b, 0, 5); /* another field first */
    put(&b, 1, 2), put(&b, 24, 2), put(&b, 5, 8), put(&b, 5, 8), put(&b, 0, 8);
    size_t end64 = b.n;
    put(&b, 0x06064b50, 4), put(&b, 44, 8), put(&b, 45, 2), put(&b, 45, 2), put(&b, 0, 8);
    put(&b, 1, 8), put(&b, 1, 8), put(&b, end64 - start, 8), put(&b, start, 8);
    put(&b, 0x07064b50, 4), put(&b, 0, 4), put(&b, end64, 8), put(&b, 1, 4);
    put(&b, 0x06054b50, 4), put(&b, 0, 4), put(&b, 0xffff, 2), put(&b, 0xffff, 2);
    put(&b, 0xffffffff, 4), put(&b, 0xffffffff, 4), put(&b, 0, 2);
    Zip z;
    Error err = {""};
    if (!zip_open(&z, b.bytes, b.n, &err)) fail_msg("%s", err.text);
    assert_int_equal(z.members[0].size, 5);
    assert_memory_equal(z.members[0].data, "data!", 5);
    zip_close(&z);
    size_t n = b.n;
    for (b.n = 0; b.n < n; b.n++) zip_refused(&b, "zip");
    b.n = n;
    b.bytes[end64 - 1] = 0x40; /* the member's place */
    zip_refused(&b, "is not where");
}

/* {"w": a tensor} with the description of one: storage class, elements, offset, shape, strides; in
 * the strings, \xee stands for 0. */
static size_t tensor_pickle(char out[400], const char *class, int elements, int offset,
                            const char *shape, const char *strides) {
    int n = sprintf(out, P2 "}X%c%c%c%cwctorch._utils\n_rebuild_tensor_v2\n((X%c%c%c%cstorage", 1,
                    0, 0, 0, 7, 0, 0, 0);
    n += sprintf(out + n, "ctorch\n%s\nX%c%c%c%c0X%c%c%c%ccpuK%ctQK%c%s%s\x89)tRs.", class, 1, 0, 0,
                 0, 3, 0, 0, 0, elements, offset, shape, strides);
    for (int i = 0; i < n; i++)
        if (out[i] == '\xee') out[i] = 0;
    return (size_t)n;
}

static const char *torch_archive(const char *pickle, size_t n, const void *data, size_t bytes,
                                 const char *order) {
    static Buffer b;
    const Member m[] = {{"x/data.pkl", pickle, n, 0, 0},
                        {"x/byteorder", order, strlen(order), 0, 0},
                        {"x/data/0", data, bytes, 0, 0}};
    make_zip(&b, m, 3);
    const char *path = test_path("made.pt");
    test_write_file(path, b.bytes, b.n);
    return path;
}

static void torch_refused(const char *path, const char *needle) {
    TorchFile f;
    Error err = {""};
    assert_false(torchfile_open(&f, path, &err));
    if (!strstr(err.text, needle)) fail_msg("no '%s' in: %s", needle, err.text);
}

static const float six[6] = {0, 1, 2, 3, 4, 5};

static void test_strides(void **state) {
    (void)state;
    char pickle[400];
    TorchFile f;
    Error err = {""};
    /* [[1,3,5],[...]]: 2 × 2 of it, from the second element, turned */
    size_t n = tensor_pickle(pickle, "FloatStorage", 6, 1, "K\2K\2\x86", "K\1K\3\x86");
    if (!torchfile_open(&f, torch_archive(pickle, n, six, sizeof six, "little"), &err))
        fail_msg("%s", err.text);
    assert_int_equal(f.count, 1);
    assert_string_equal(f.tensors[0].name, "w");
    assert_int_equal(f.tensors[0].ndim, 2);
    float x[4];
    assert_true(tensor_read_f32(&f.tensors[0], 0, 4, x));
    assert_memory_equal(x, ((float[]){1, 4, 2, 5}), sizeof x);
    assert_true(torchfile_verify(&f, &err));
    torchfile_close(&f);
    /* nothing in it: no data is looked at */
    n = tensor_pickle(pickle, "FloatStorage", 6, 9, "K\2K\xee\x86", "K\1K\3\x86");
    assert_true(torchfile_open(&f, torch_archive(pickle, n, six, sizeof six, "little"), &err));
    assert_int_equal(f.tensors[0].count, 0);
    torchfile_close(&f);
}

/* Shape and strides as lists that grow, through the memo, after the tensor was made of them. */
static void test_lists_that_grow(void **state) {
    (void)state;
    char pickle[400];
    TorchFile f;
    Error err = {""};
    size_t n = tensor_pickle(pickle, "FloatStorage", 6, 0, "]q\5(K\2K\3e", "]q\6(K\3K\1e") - 1;
    static const char grow[] = "h\5(K\1K\1e0h\6(X\1\0\0\0se0.";
    memcpy(pickle + n, grow, sizeof grow - 1);
    n += sizeof grow - 1;
    if (!torchfile_open(&f, torch_archive(pickle, n, six, sizeof six, "little"), &err))
        fail_msg("%s", err.text);
    assert_int_equal(f.tensors[0].ndim, 2);
    assert_int_equal(f.tensors[0].shape[0], 2);
    assert_int_equal(f.tensors[0].shape[1], 3);
    float x[6];
    assert_true(tensor_read_f32(&f.tensors[0], 0, 6, x));
    assert_memory_equal(x, six, sizeof x);
    torchfile_close(&f);
}

/* Many names of one tensor whose elements must be reordered: copies are bounded by the file. */
static void test_views_are_bounded(void **state) {
    (void)state;
    enum { SIDE = 32, VIEWS = 40 };
    static float square[SIDE * SIDE];
    char pickle[2000] = P2 "}(";
    size_t n = 4;
    for (int i = 0; i < VIEWS; i++) {
        n += (size_t)sprintf(pickle + n, "X%c%c%c%c%c", 1, 0, 0, 0, '0' + i);
        if (i) {
            n += (size_t)sprintf(pickle + n, "h%c", 7);
            continue;
        }
        char made[400];
        size_t m = tensor_pickle(made, "FloatStorage", 0, 0, "K K \x86", "K\1K \x86");
        memcpy(pickle + n, made + 9, m - 11); /* without the dictionary around it */
        char *elements = memmem(pickle + n, m, "cpuK\0", 5);
        assert_non_null(elements);
        memmove(elements + 6, elements + 5, m);
        memcpy(elements + 3, "M\0\4", 3); /* 1024 */
        n += m - 10;
        n += (size_t)sprintf(pickle + n, "q%c", 7);
    }
    memcpy(pickle + n, "u.", 2);
    torch_refused(torch_archive(pickle, n + 2, square, sizeof square, "little"),
                  "take more than the file");
}

static void test_tensors_refused(void **state) {
    (void)state;
    static const struct {
        const char *class;
        int elements, offset;
        const char *shape, *strides;
        size_t bytes;
        const char *order, *says;
    } bad[] = {
        {"FloatStorage", 6, 1, "K\6\x85", "K\1\x85", 24, "little", "beyond its data"},
        {"FloatStorage", 6, 0, "K\2K\2\x86", "K\1K\5\x86", 24, "little", "beyond its data"},
        {"FloatStorage", 6, 0, "K\7\x85", "K\xee\x85", 24, "little", "beyond its data"},
        {"FloatStorage", 6, 0, "K\6\x85", "K\1\x85", 20, "little", "too few"},
        {"DoubleStorage", 6, 0, "K\6\x85", "K\1\x85", 24, "little", "too few"},
        {"FloatStorage", 6, 0, "K\6\x85", "K\1\x85", 24, "big", "not little-endian"},
        {"FloatStorage", 6, 0, "K\6\x85", "K\1K\1\x86", 24, "little", "described"},
        {"FloatStorage", 6, 0, "K\6\x85", "J\xff\xff\xff\xff\x85", 24, "little", "described"},
        {"FloatStorage", 6, 0, "K\6\x85", "\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f\x85", 24,
         "little", "beyond its data"},
    };
    for (size_t i = 0; i < COUNT(bad); i++) {
        char pickle[400];
        size_t n = tensor_pickle(pickle, bad[i].class, bad[i].elements, bad[i].offset, bad[i].shape,
                                 bad[i].strides);
        torch_refused(torch_archive(pickle, n, six, bad[i].bytes, bad[i].order), bad[i].says);
    }
}

static void test_archives_refused(void **state) {
    (void)state;
    static Buffer b;
    const char *path = test_path("made.pt");
    test_write_file(path, "\x80\x02\x8a\nl\xfc\x9c", 7);
    torch_refused(path, "before PyTorch 1.6");
    const Member other[] = {{"word/document.xml", "<w/>", 4, 0, 0}};
    make_zip(&b, other, 1);
    test_write_file(path, b.bytes, b.n);
    torch_refused(path, "no data.pkl");
    const Member packed[] = {{"x/data.pkl", "....", 4, 8, 0}};
    make_zip(&b, packed, 1);
    test_write_file(path, b.bytes, b.n);
    torch_refused(path, "compressed");
    const char system_call[] = P2 "cposix\nsystem\nX\4\0\0\0true\x85R.";
    torch_refused(torch_archive(system_call, sizeof system_call - 1, six, 24, "little"),
                  "refused: it names posix.system");
    const char no_tensors[] = P2 "}(X\5\0\0\0epochK\1X\3\0\0\0netK\2u.";
    torch_refused(torch_archive(no_tensors, sizeof no_tensors - 1, six, 24, "little"),
                  "its keys: epoch, net");
    torch_refused(torch_archive(P2 "K\1.", 5, six, 24, "little"), "no dictionary of tensors");
    /* a module that is its own child */
    const char loop[] = P2 "c__torch__\nM\n)\x81q\1}X\1\0\0\0mh\1sb.";
    torch_refused(torch_archive(loop, sizeof loop - 1, six, 24, "little"), "modules in modules");
    const Member wrong[] = {{"x/data.pkl", P2 "}.", 4, 0, 77}};
    make_zip(&b, wrong, 1);
    test_write_file(path, b.bytes, b.n);
    torch_refused(path, "damaged");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain_values),
        cmocka_unit_test(test_code_is_refused),
        cmocka_unit_test(test_malformed),
        cmocka_unit_test(test_bounded),
        cmocka_unit_test(test_zip),
        cmocka_unit_test(test_zip64),
        cmocka_unit_test(test_strides),
        cmocka_unit_test(test_lists_that_grow),
        cmocka_unit_test(test_views_are_bounded),
        cmocka_unit_test(test_tensors_refused),
        cmocka_unit_test(test_archives_refused),
    };
    return cmocka_run_group_tests_name("torchfile", tests, NULL, NULL);
}
