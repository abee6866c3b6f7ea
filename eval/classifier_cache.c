#include "eval/classifier_cache.h"

#include "data/io/folder.h"
#include "data/tensors/npy.h"
#include "kernels/hash.h"

#include <stdlib.h>
#include <string.h>

/* malloc'd; NULL: there is no folder for it. */
static char *path_of(Encoder *e, const ClassSet *s, const char *folder) {
    char *own = folder ? xstrdup(folder) : folder_cache(), *path = NULL;
    Error err;
    if (own && folder_private(own, &err)) {
        const char *kernels = kernels_title(encoder_kernels(e)), *model = encoder_identity(e);
        uint64_t tokenizer = encoder_tokenizer(e), classes = class_set_hash(s), h = FNV_START;
        h = fnv_hash(h, kernels, strlen(kernels));
        h = fnv_hash(h, &tokenizer, sizeof tokenizer);
        h = fnv_hash(h, &classes, sizeof classes);
        path = xasprintf("%s/classifier-%s-%016llx.npy", own, model, (unsigned long long)h);
    }
    free(own);
    return path;
}

static bool load(Classifier *w, const char *path, size_t classes, size_t dim) {
    NpyMap m;
    Error err;
    if (!npy_map(&m, path, &err)) return false;
    bool fits = m.f32 && m.rows == classes && m.cols == dim;
    if (fits) {
        size_t n = classes * dim;
        *w = (Classifier){.classes = classes, .dim = dim, .weights = xmalloc(n * sizeof(float))};
        memcpy(w->weights, m.f32, n * sizeof(float));
    }
    npy_unmap(&m);
    return fits;
}

/* Rank 0 has the folder; all ranks get what it read. */
static bool load_all(Classifier *w, const Comm *c, const char *path, const ClassSet *s,
                     size_t dim) {
    bool loaded = path && load(w, path, s->count, dim);
    c->broadcast_bytes(&loaded, sizeof loaded, 0);
    if (!loaded) return false;
    size_t bytes = s->count * dim * sizeof *w->weights;
    if (c->rank > 0) *w = (Classifier){.classes = s->count, .dim = dim, .weights = xmalloc(bytes)};
    c->broadcast_bytes(w->weights, bytes, 0);
    w->templates = s->template_count;
    return true;
}

void classifier_cached(Classifier *w, Encoder *e, const Comm *c, const ClassSet *s,
                       const char *folder) {
    char *path = c->rank == 0 ? path_of(e, s, folder) : NULL;
    Error err;
    if (load_all(w, c, path, s, encoder_dim(e))) {
        if (path) log_info("classifier: %s", path);
    } else {
        classifier_build(w, e, c, s, false);
        size_t shape[] = {w->classes, w->dim};
        if (path && !npy_write_f32(path, w->weights, shape, 2, &err))
            log_warn("the classifier is not cached: %s", err.text);
    }
    free(path);
}
