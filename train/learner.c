#include "train/learner.h"

#include "data/captions.h"
#include "train/layers.h"
#include "train/model/lora.h"
#include "train/shard.h"
#include "train/train_options.h"

#include <string.h>

static const TrainOptions *const opt = &train_options;

static bool locks_wholly(bool lock, int64_t unlocked) { return lock && !unlocked; }
static bool image_is_frozen(void) {
    return locks_wholly(opt->lock_image, opt->lock_image_unlocked_groups);
}
static bool text_is_frozen(void) {
    return locks_wholly(opt->lock_text, opt->lock_text_unlocked_layers) &&
           opt->lock_text_freeze_layer_norm;
}

void learner_check_options(const ClipConfig *c) {
    /* open_clip's defaults of beta2 and eps depend on the model's name; the run's record holds the
     * values used. A resumed run's configuration has the checkpoint's path as its name. */
    const char *name = opt->model ? opt->model : opt->pretrained ? opt->pretrained : c->name;
    if (!strcasestr(name, "vit")) {
        if (!option_find(&train_command, "beta2")->given) train_options.beta2 = 0.999;
        if (!option_find(&train_command, "eps")->given) train_options.eps = 1e-8;
    }
    if (opt->siglip && opt->distill_pretrained)
        die_usage("clipc train: --distill-pretrained matches a softmax: leave --siglip out");
    if (opt->distill_model && !opt->distill_pretrained)
        die_usage("clipc train: --distill-model needs the teacher's weights: "
                  "--distill-pretrained");
    if (!opt->lora_rank) return;
    if (opt->lock_image_unlocked_groups || opt->lock_text_unlocked_layers)
        die_usage("clipc train: --lora-rank adapts whole towers: leave the unlocked groups out");
}

ClipOptions learner_clip_options(const Kernels *k, const ClipConfig *c, uint64_t seed) {
    return (ClipOptions){
        .max_batch = (size_t)opt->batch_size,
        .text_bucket = clip_text_bucket(k, c, (size_t)opt->batch_size),
        .training = true,
        .grad_checkpointing = opt->grad_checkpointing,
        .patch_dropout = c->patch_dropout,
        .seed = seed,
        .frozen_image = image_is_frozen(),
        .frozen_text = text_is_frozen(),
    };
}

static OptimOptions optim_options(void) {
    return (OptimOptions){.beta1 = opt->beta1,
                          .beta2 = opt->beta2,
                          .eps = opt->eps,
                          .weight_decay = opt->wd,
                          .wd_groups = opt->wd_groups,
                          .grad_clip_norm = opt->grad_clip_norm};
}

/* ---- weights ---- */

static void choose_trainable(Params *p, const ClipConfig *c) {
    layers_apply(p, c,
                 &(LayerRules){.lock_image = opt->lock_image,
                               .lock_text = opt->lock_text,
                               .image_unlocked = (size_t)opt->lock_image_unlocked_groups,
                               .text_unlocked = (size_t)opt->lock_text_unlocked_layers,
                               .text_norms_locked = opt->lock_text_freeze_layer_norm,
                               .lr_decay = opt->lr_layer_decay});
}

static void share_masters(OptimState *s) {
    if (is_sharded(s) && params_are_rounded(s->p) && !s->ema && !s->p->lora) shard_masters(s);
}

/* Sends rank 0's weights and moments to all ranks. */
static void load_weights(Learner *l, const char *resume, TrainState *state) {
    Params *p = l->params;
    comm_rank0_begin(l->comm);
    if (l->comm->rank == 0) {
        params_init(p, state->seed);
        if (resume)
            pretrained_load(resume, p, l->config);
        else if (opt->pretrained)
            pretrained_load(opt->pretrained, p, l->config);
    }
    comm_rank0_end(l->comm);
    if (l->state->comm) optim_state_broadcast(l->state);
    if (opt->ema > 0) optim_state_track(l->state, opt->ema);
    if (resume) checkpoint_load_state(resume, l->state, state);
    if (resume) checkpoint_load_choices(resume);
    params_round(p);
    lora_merge(p);
    share_masters(l->state);
}

static size_t learning(const Params *p) {
    size_t n = 0;
    for (size_t i = 0; i < p->count; i++)
        if (p->list[i].trainable) n += p->list[i].size;
    return n;
}

static void build(Learner *l) {
    ClipOptions o = learner_clip_options(l->k, l->config, l->seed);
    OptimOptions oo = optim_options();
    l->clip = clip_new(l->k, l->config, l->params, &o);
    l->optim = optim_new(l->state, &oo);
    l->step =
        step_new(l->k, l->comm, l->clip, l->state, l->optim, opt->siglip ? LOSS_SIGLIP : LOSS_CLIP,
                 (size_t)opt->batch_size, (size_t)opt->accum_freq, l->config->embed_dim,
                 size_mul((size_t)opt->logit_memory, 1 << 20));
    if (opt->gather_dtype == GATHER_BF16) step_gather_bf16(l->step);
}

static size_t shards(int ranks) { return opt->shard_optimizer ? (size_t)ranks : 1; }

static Params *lay_out(const Kernels *k, const ClipConfig *c, int ranks) {
    LoraOptions lora = {(size_t)opt->lora_rank, opt->lora_alpha, !opt->lock_image, !opt->lock_text};
    Params *p = params_declare(k, c);
    lora_declare(p, &lora);
    choose_trainable(p, c);
    params_layout(p, shards(ranks));
    return p;
}

static void make_params(Learner *l) {
    l->params = lay_out(l->k, l->config, l->comm->size);
    l->state = optim_state_new(l->params, l->comm, shards(l->comm->size), opt->moments);
}

static void make_teacher(Learner *l) {
    ClipOptions o = learner_clip_options(l->k, l->config, l->seed);
    if (opt->distill_pretrained)
        l->teacher = teacher_new(l->k, opt->distill_model, opt->distill_pretrained, l->config, &o,
                                 size_mul(o.max_batch, (size_t)opt->accum_freq));
}

/* Over the model that learns; tokenizer NULL: for pictures alone. */
static Encoder *encoder_of(const Learner *l, const Tokenizer *tokenizer) {
    return encoder_of_model(l->k, l->config, l->params, step_uploads(l->step), tokenizer,
                            (size_t)opt->batch_size);
}

static void extend(const Learner *l) {
    step_extend(l->step, &(StepExtras){.teacher = l->teacher,
                                       .multi_positive = opt->multi_positive,
                                       .images = l->images,
                                       .texts = l->texts});
}

void learner_open(Learner *l, const Kernels *k, const Comm *comm, const ClipConfig *c,
                  const char *resume, TrainState *state) {
    *l = (Learner){.k = k, .comm = comm, .config = c, .seed = state->seed};
    make_params(l);
    load_weights(l, resume, state);
    size_t learned = learning(l->params);
    if (learned != params_elements(l->params))
        log_info("%zu parameters learn%s", learned, opt->lora_rank ? ", LoRA's factors" : "");
    l->seed = state->seed;
    build(l);
    comm_rank0_begin(comm);
    make_teacher(l);
    if (l->teacher) teacher_load(l->teacher, opt->distill_pretrained);
    comm_rank0_end(comm);
}

void learner_plan(Learner *l, const Kernels *k, const Comm *comm, const ClipConfig *c) {
    *l = (Learner){.k = k, .comm = comm, .config = c};
    make_params(l);
    if (opt->ema > 0) optim_state_track(l->state, opt->ema);
    share_masters(l->state);
    build(l);
    make_teacher(l);
    encoder_close(encoder_of(l, NULL));
    extend(l);
}

PlanOptions learner_plan_options(const Kernels *k, const ClipConfig *c, int ranks) {
    size_t accum = (size_t)opt->accum_freq;
    PlanOptions p = {.params = lay_out(k, c, ranks),
                     .accum = accum,
                     .logit_memory = size_mul((size_t)opt->logit_memory, 1 << 20),
                     .ranks = ranks,
                     .shard_optimizer = opt->shard_optimizer && ranks > 1,
                     .ema = opt->ema > 0,
                     .gather_bf16 = opt->gather_dtype == GATHER_BF16,
                     .soft = opt->distill_pretrained || opt->multi_positive,
                     .moments = opt->moments};
    ClipOptions o = learner_clip_options(k, c, 0);
    if (opt->distill_pretrained)
        p.teacher = teacher_bytes(k, opt->distill_model, opt->distill_pretrained, c, &o,
                                  size_mul(o.max_batch, accum), &p.teacher_dim);
    return p;
}

/* ---- frozen towers ---- */

static bool captions_stay(void) {
    return opt->captions != CAPTIONS_RANDOM && !strpbrk(opt->text_key, ",:");
}

static void say_cache(const char *what, const FeatureCache *c) {
    log_info("the %s tower is frozen: features of %zu samples computed once, in %.1f s (%.1f MiB)",
             what, c->count - c->missing, c->seconds,
             (double)(c->count * c->dim) * sizeof(float) / (1 << 20));
}

void learner_cache(Learner *l, Dataset *d, const Transform *t, const Tokenizer *tokenizer,
                   uint64_t samples) {
    size_t count = dataset_count(d), E = l->config->embed_dim;
    bool fits = (double)count * (double)E * sizeof(float) <= (double)opt->feature_cache * (1 << 20);
    bool worth = fits && samples > count && !dataset_feed(d);
    bool images = worth && image_is_frozen() && !t->train && l->config->patch_dropout == 0,
         texts = worth && text_is_frozen() && captions_stay();
    Encoder *e = images || texts ? encoder_of(l, tokenizer) : NULL;
    if (images) {
        l->images = feature_cache_images(e, l->comm, d, (size_t)opt->max_image_pixels);
        say_cache("image", l->images);
    }
    if (texts) {
        l->texts = feature_cache_texts(e, l->comm, d);
        say_cache("text", l->texts);
    }
    if (e) encoder_close(e);
    extend(l);
}

void learner_close(Learner *l) {
    step_free(l->step);
    teacher_free(l->teacher);
    feature_cache_free(l->images);
    feature_cache_free(l->texts);
    optim_free(l->optim);
    clip_free(l->clip);
    optim_state_free(l->state);
    params_free(l->params);
}
