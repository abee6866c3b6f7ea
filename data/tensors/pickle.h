/* pickle: a restricted reader of Python's pickles, for PyTorch's checkpoints. Values become a tree
 * of plain data; nothing is ever called or imported. Names of classes and functions must be in a
 * short list (tensors, storages, OrderedDict, TorchScript's modules and lists); any other name is
 * an error that names it. Source: Python, Lib/pickletools.py (protocols 2 to 4); PyTorch,
 * torch/serialization.py and torch/csrc/jit/serialization. */
#pragma once
#include "kernels/base.h"

typedef enum {
    PICKLE_NONE,
    PICKLE_BOOL,
    PICKLE_INT,
    PICKLE_FLOAT,
    PICKLE_STRING,
    PICKLE_TUPLE,   /* items */
    PICKLE_LIST,    /* items */
    PICKLE_DICT,    /* items: key, value, key, value … */
    PICKLE_NAME,    /* a class or function of the list: text "torch FloatStorage" */
    PICKLE_STORAGE, /* text: its key; name: its class; integer: elements */
    PICKLE_TENSOR,  /* tensor */
    PICKLE_OBJECT   /* a TorchScript module; items: attribute, value … */
} PickleKind;

typedef struct PickleValue PickleValue;

/* Copied when the tensor is built, because the lists that describe it may still grow. */
typedef struct PickleTensor {
    const PickleValue *storage;
    size_t offset, ndim; /* in elements */
    size_t sizes[];      /* shape[ndim], strides[ndim] */
} PickleTensor;

struct PickleValue {
    PickleKind kind;
    union {
        int64_t integer; /* also of a bool */
        double number;
        PickleTensor *tensor;
    };
    char *text; /* UTF-8, without NUL */
    const char *name;
    PickleValue **items;
    size_t count, room;
    PickleValue *next; /* list of the pickle's values, to free them */
};

typedef struct Pickle {
    PickleValue *root, *all;
} Pickle;

/* Memory is bounded by about a hundred times the bytes; at most 4 MiB of bytes are accepted. Values
 * may be shared, and lists may contain themselves: callers that walk the tree must bound depth and
 * visits. */
bool pickle_parse(Pickle *p, const unsigned char *bytes, size_t n, Error *err);
void pickle_free(Pickle *p);
/* The value of a string key in a dict or object; NULL: absent. */
const PickleValue *pickle_get(const PickleValue *dict, const char *key);
