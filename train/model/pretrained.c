#include "train/model/pretrained.h"

#include "data/io/file.h"
#include "data/io/folder.h"
#include "data/io/machine.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Tags and hub names of open_clip are not paths. */
static _Noreturn void refuse_name(const char *name) {
    static const char hub[] = "hf-hub:";
    bool on_hub = !strncmp(name, hub, sizeof hub - 1);
    die("%s: no such file or folder, and nothing is downloaded: fetch it with `hf download %s "
        "--local-dir FOLDER` and give that FOLDER (docs/CHECKPOINTS.md lists repositories)",
        name, on_hub ? name + sizeof hub - 1 : "REPOSITORY");
}

static char *checkpoint_of_run(const char *run, const char *checkpoints) {
    static const char *const names[] = {"best", "latest"};
    for (size_t i = 0; i < COUNT(names); i++) {
        char *path = folder_path(checkpoints, names[i]),
             *weights = folder_is(path) ? weights_find_file(path) : NULL;
        free(weights);
        if (weights) {
            log_info("%s is a run: its checkpoints/%s is used", run, names[i]);
            return path;
        }
        free(path);
    }
    die("%s: no checkpoint in it yet (neither best nor latest)", checkpoints);
}

char *pretrained_find(const char *name) {
    if (!machine_access(name, F_OK)) refuse_name(name);
    char *weights = weights_find_file(name), *checkpoints = folder_path(name, "checkpoints");
    char *found =
        !weights && folder_is(checkpoints) ? checkpoint_of_run(name, checkpoints) : xstrdup(name);
    FREE_ALL(weights, checkpoints);
    return found;
}

void pretrained_config(ClipConfig *c, const char *path, const char *model) {
    clip_config_load(c, model ? model : path);
    char *file = model && path ? clip_config_find(path) : NULL;
    ClipConfig own;
    Error err;
    if (file && clip_config_read(&own, file, &err)) {
        own.eval_transform.size = c->eval_transform.size;
        own.eval_transform.patch_size = c->eval_transform.patch_size;
        if (!c->naflex || !own.naflex)
            own.eval_transform.max_patches = c->eval_transform.max_patches;
        c->eval_transform = own.eval_transform;
        clip_config_free(&own);
    }
    free(file);
}

/* The wrong activation costs many points of accuracy and is not detected otherwise. */
static void warn_of_activation(const char *path, const Weights *w, const ClipConfig *c) {
    ClipConfig own;
    Error err;
    char *config = clip_config_find(path);
    Activation computed[] = {c->image.activation, c->text.activation};
    Activation trained[] = {computed[0], computed[1]};
    if (config && clip_config_read(&own, config, &err)) {
        trained[0] = own.image.activation;
        trained[1] = own.text.activation;
        clip_config_free(&own);
    } else if (w->openai) {
        trained[0] = trained[1] = ACTIVATION_QUICK_GELU;
    }
    free(config);
    size_t i = trained[0] == computed[0]; /* of one tower is enough */
    if (trained[i] == computed[i]) return;
    log_warn("%s was trained with %s, the model %s computes %s: its features will be wrong; %s",
             path, activation_name(trained[i]), c->name, activation_name(computed[i]),
             trained[i] == ACTIVATION_QUICK_GELU ? "give the --model whose name ends in -quickgelu"
             : computed[i] == ACTIVATION_QUICK_GELU ? "give the --model without -quickgelu"
                                                    : "give a --model with its act_kwargs");
}

void pretrained_open(Weights *w, const char *path, const ClipConfig *c, const Param *list,
                     size_t count, ParamTower only) {
    Error err;
    if (!weights_open(w, path, &err) || !weights_fit(w, list, count, only, c->name, &err))
        die("weights: %s", err.text);
    warn_of_activation(path, w, c);
}

void pretrained_read(Weights *w, Params *p) {
    for (size_t i = 0; i < p->tensors; i++) {
        if (param_is_absent(p, &p->list[i])) continue;
        weight_load(&w->list[i], p, p->master, &p->list[i]);
        tensorfile_drop(&w->file);
    }
    if (!p->only) weights_close(w);
    params_round(p);
}

void pretrained_load(const char *path, Params *p, const ClipConfig *c) {
    Weights w;
    pretrained_open(&w, path, c, p->list, p->tensors, p->only);
    pretrained_read(&w, p);
}

char *pretrained_vocab(const char *path) {
    /* Hugging Face's merges.txt has the format of open_clip's vocabulary */
    static const char *const names[] = {"vocab.bpe",    "merges.txt",      "tokenizer.json",
                                        "spiece.model", "tokenizer.model", "vocab.txt"};
    for (size_t i = 0; i < COUNT(names); i++) {
        char *vocab = folder_beside(path, names[i]);
        if (machine_access(vocab, R_OK)) return vocab;
        free(vocab);
    }
    return NULL;
}

Tokenizer *pretrained_tokenizer(const ClipConfig *c, const char *vocab, const char *checkpoint,
                                char **path) {
    Error err;
    *path = vocab ? xstrdup(vocab) : checkpoint ? pretrained_vocab(checkpoint) : NULL;
    if (!*path && c->names_tokenizer)
        die("the model %s has a tokenizer that is not CLIP's, and its folder has no "
            "tokenizer.json, "
            "spiece.model or vocab.txt: give --vocab",
            c->name);
    if (!*path) *path = tokenizer_default_path();
    Tokenizer *t = tokenizer_open_rules(*path, &c->tokenizer, &err);
    if (!t) die("%s", err.text);
    /* open_clip rounds the sizes of other vocabularies up */
    size_t entries = t->vocab_size;
    if (c->names_tokenizer ? entries > c->vocab_size : entries != c->vocab_size) {
        tokenizer_close(t); /* leak checkers examine this exit too */
        die("%s has %zu entries, the model %s has %zu: give the --vocab that belongs to the model",
            *path, entries, c->name, c->vocab_size);
    }
    return t;
}

bool pretrained_copy_vocab(const char *vocab, const char *folder) {
    const char *name = tokenizer_file_name(vocab);
    char *to = folder_path(folder, name), *config = folder_beside(vocab, TOKENIZER_CONFIG);
    char *config_to = folder_path(folder, TOKENIZER_CONFIG);
    bool ok = file_copy(vocab, to);
    if (ok && strcmp(name, "vocab.bpe") != 0 && machine_access(config, F_OK))
        ok = file_copy(config, config_to);
    int error = errno;
    FREE_ALL(to, config, config_to);
    errno = error;
    return ok;
}
