#include "train/learner.h"

#include "data/captions.h"
#include "train/layers.h"
#include "train/model/lora.h"
#include "train/ranks/agree.h"
#include "train/shard.h"
#include "train/train_options.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static bool locks_wholly(bool lock, int64_t unlocked) { return lock && !unlocked; }
static bool image_is_frozen(const TrainOptions *opt) {
    return locks_wholly(opt->lock_image, opt->lock_image_unlocked_groups);
}
static bool text_is_frozen(const TrainOptions *opt) {
    return locks_wholly(opt->lock_text, opt->lock_text_unlocked_layers) &&
           opt->lock_text_freeze_layer_norm;
}

/* What only pairs have, and what would change one of two views alone. */
static void check_objective(const ClipConfig *c) {
    const TrainOptions *o = &train_options;
    bool alone = o->objective == OBJECTIVE_SIMCLR;
    const struct {
        bool given, pairs; /* pairs: only simclr refuses it */
        const char *name, *why;
    } refused[] = {
        {o->lora_rank > 0, false, "lora-rank", "its factors have no projection head"},
        {o->lock_image, false, "lock-image", "views train the image tower"},
        {o->distill_pretrained != NULL, false, "distill-pretrained", "a teacher sees no views"},
        {o->jpeg_scale, false, "jpeg-scale", "both views come from one decoded picture"},
        {o->lock_text, true, "lock-text", "there are no captions, and the text tower rests"},
        {o->siglip, true, "siglip", "it is a loss of pairs"},
        {o->multi_positive, true, "multi-positive", "it compares captions"},
        {o->text_rows != NULL, true, "text-rows", "there are no captions"},
        {o->imagenet_val != NULL, true, "imagenet-val",
         "captions are not learned; see clipc eval probe"},
    };
    if (o->objective == OBJECTIVE_CLIP) return;
    for (size_t i = 0; i < COUNT(refused); i++)
        if (refused[i].given && (alone || !refused[i].pairs))
            die_usage("clipc train: --objective %s without --%s: %s", alone ? "simclr" : "slip",
                      refused[i].name, refused[i].why);
    if (alone && !c->image.no_proj)
        log_info("--objective simclr: the image tower's projection is not trained; a model whose "
                 "timm_proj or proj_type is \"none\" has none");
}

/* LARS's steps are shares of a tensor's norm, so its rates are other numbers than AdamW's. */
static void check_optimizer(void) {
    TrainOptions *o = &train_options;
    if (o->optimizer == OPTIMIZER_ADAMW) return;
    static const char *const adams[] = {"beta2", "eps"};
    for (size_t i = 0; i < COUNT(adams); i++)
        if (option_find(&train_command, adams[i])->given == GIVEN_ON_COMMAND_LINE)
            die_usage("clipc train: --%s is AdamW's: leave it out with --optimizer lars", adams[i]);
    if (o->lora_rank)
        die_usage("clipc train: --lora-rank without --optimizer lars: its factors start at 0, and "
                  "LARS's steps are shares of a tensor's norm");
    if (!option_find(&train_command, "lr")->given)
        die_usage("clipc train: --optimizer lars needs --lr: SimCLR's is 0.3 times the samples of "
                  "a step / 256");
    if (!option_find(&train_command, "wd")->given) o->wd = 1e-6;
}

/* Sets the rows of --text-rows N. */
static void check_text_rows(const ClipConfig *c) {
    const char *given = train_options.text_rows;
    char *end;
    if (!given) return;
    if (!tower_ends_at_pool(&c->text))
        die_usage("clipc train: --text-rows is for captions that end at their end token: %s reads "
                  "whole contexts",
                  c->name);
    if (!strcmp(given, "auto")) return;
    double rows = strtod(given, &end);
    if (end == given || *end || rows != floor(rows) ||
        !(rows >= 1 && rows <= (double)c->context_length))
        die_usage("clipc train: --text-rows is auto or a whole number from 1 to %s's context, %zu, "
                  "not '%s'",
                  c->name, c->context_length, given);
    train_options.caption_rows = (size_t)rows;
}

void learner_check_options(const ClipConfig *c) {
    const TrainOptions *opt = &train_options;
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
    if (!clip_has_batch_norms(c) && (opt->freeze_bn || opt->sync_bn))
        die_usage("clipc train: --freeze-bn and --sync-bn are for ResNets and convolutional stems: "
                  "%s has no batch normalisation",
                  c->name);
    if (opt->freeze_bn && opt->sync_bn)
        die_usage("clipc train: --freeze-bn leaves nothing to synchronise: leave --sync-bn out");
    check_objective(c);
    check_optimizer();
    check_text_rows(c);
    if (!opt->lora_rank) return;
    if (c->image.conv.kind && !opt->lock_image)
        die_usage("clipc train: --lora-rank adapts transformers, and %s has a ResNet: give "
                  "--lock-image, or train without --lora-rank",
                  c->name);
    if (opt->lock_image_unlocked_groups || opt->lock_text_unlocked_layers)
        die_usage("clipc train: --lora-rank adapts whole towers: leave the unlocked groups out");
}

static HeadOptions head_options(const TrainOptions *o) {
    if (o->objective == OBJECTIVE_CLIP) return (HeadOptions){.layers = 0};
    return (HeadOptions){(size_t)o->head_layers, (size_t)o->head_hidden, (size_t)o->head_dim};
}

static ViewsLoss views_loss(const TrainOptions *o) {
    return (ViewsLoss){.dim = head_options(o).out,
                       .share = o->objective == OBJECTIVE_SLIP ? o->ssl_scale : 1,
                       .temperature = o->temperature,
                       .alone = o->objective == OBJECTIVE_SIMCLR};
}

static ClipOptions clip_options(const Learner *l) {
    return (ClipOptions){
        .max_batch = (size_t)l->opt->batch_size,
        .max_text_rows = size_mul((size_t)l->opt->batch_size, l->opt->caption_rows),
        .text_bucket = clip_text_bucket(l->k, l->config, (size_t)l->opt->batch_size),
        .training = true,
        .grad_checkpointing = l->opt->grad_checkpointing,
        .kept_blocks = l->opt->kept_blocks,
        .patch_dropout = l->config->patch_dropout,
        .seed = l->seed,
        .sync_norm = l->opt->sync_bn ? l->comm : NULL,
        .frozen_image = image_is_frozen(l->opt),
        .frozen_text = text_is_frozen(l->opt) || l->opt->objective == OBJECTIVE_SIMCLR,
        .head = head_options(l->opt),
        .views = l->opt->objective == OBJECTIVE_CLIP ? 0 : 2,
        .views_only = l->opt->objective == OBJECTIVE_SIMCLR,
    };
}

static OptimOptions optim_options(const TrainOptions *opt) {
    return (OptimOptions){.beta1 = opt->beta1,
                          .beta2 = opt->beta2,
                          .eps = opt->eps,
                          .weight_decay = opt->wd,
                          .wd_groups = opt->wd_groups,
                          .grad_clip_norm = opt->grad_clip_norm};
}

/* ---- weights ---- */

static void choose_trainable(Params *p, const ClipConfig *c, const TrainOptions *opt) {
    layers_apply(p, c,
                 &(LayerRules){.lock_image = opt->lock_image,
                               .lock_text = opt->lock_text,
                               .image_unlocked = (size_t)opt->lock_image_unlocked_groups,
                               .text_unlocked = (size_t)opt->lock_text_unlocked_layers,
                               .text_norms_locked = opt->lock_text_freeze_layer_norm,
                               .batch_norms_locked = opt->freeze_bn,
                               .lr_decay = opt->lr_layer_decay});
}

/* Of simclr only the image tower below its projection, and the head. */
static void rest_of_views(Params *p) {
    for (size_t i = 0; i < p->tensors; i++) {
        Param *q = &p->list[i];
        if (q->tower != TOWER_IMAGE || q->role == ROLE_PROJECTION) q->trainable = false;
    }
}

static void share_masters(OptimState *s) {
    if (is_sharded(s) && params_are_rounded(s->p) && !s->ema && !params_apart(s->p))
        shard_masters(s);
}

/* Sends rank 0's weights and moments to all ranks. */
static void load_weights(Learner *l, const char *resume, TrainState *state) {
    Params *p = l->params;
    const TrainOptions *opt = l->opt;
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
    if (resume) checkpoint_load_algorithms(resume);
    if (resume) agree_on_algorithms(l->comm);
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

static void make_params(Learner *l) {
    const TrainOptions *opt = l->opt;
    LoraOptions lora = {(size_t)opt->lora_rank, opt->lora_alpha, !opt->lock_image, !opt->lock_text};
    size_t shards = opt->shard_optimizer ? (size_t)l->comm->size : 1;
    l->params = params_declare(l->k, l->config);
    lora_declare(l->params, &lora);
    HeadOptions head = head_options(opt);
    projection_head_declare(l->params, &head, l->config->image.width);
    choose_trainable(l->params, l->config, opt);
    if (opt->objective == OBJECTIVE_SIMCLR) rest_of_views(l->params);
    params_layout(l->params, shards);
    l->state = optim_state_of(l->params, l->comm, shards, opt->moments, opt->optimizer);
}

static void make_model(Learner *l) {
    ClipOptions o = clip_options(l);
    l->clip = clip_new(l->k, l->config, l->params, &o);
}

static void make_step(Learner *l) {
    const TrainOptions *opt = l->opt;
    OptimOptions o = optim_options(opt);
    ViewsLoss views = views_loss(opt);
    l->optim = optim_new(l->state, &o);
    l->step =
        step_new(l->k, l->comm, l->clip, l->state, l->optim, opt->siglip ? LOSS_SIGLIP : LOSS_CLIP,
                 (size_t)opt->batch_size, (size_t)opt->accum_freq, l->config->embed_dim,
                 logit_memory_of(opt, l->k), &views);
    if (opt->gather_dtype == GATHER_BF16) step_gather_bf16(l->step);
}

static void make_teacher(Learner *l) {
    const TrainOptions *opt = l->opt;
    ClipOptions o = clip_options(l);
    if (opt->distill_pretrained)
        l->teacher = teacher_new(l->k, opt->distill_model, opt->distill_pretrained, l->config, &o,
                                 size_mul(o.max_batch, (size_t)opt->accum_freq));
}

/* Over the model that learns; tokenizer NULL: for pictures alone. */
static Encoder *encoder_of(const Learner *l, const Tokenizer *tokenizer) {
    return encoder_of_model(l->k, l->config, l->params, step_uploads(l->step), tokenizer,
                            (size_t)l->opt->batch_size);
}

static void extend(const Learner *l) {
    step_extend(l->step, &(StepExtras){.teacher = l->teacher,
                                       .multi_positive = l->opt->multi_positive,
                                       .images = l->images,
                                       .texts = l->texts});
}

void learner_open(Learner *l, const Kernels *k, const Comm *comm, const ClipConfig *c,
                  const TrainOptions *opt, const char *resume, TrainState *state) {
    *l = (Learner){.k = k, .comm = comm, .config = c, .opt = opt, .seed = state->seed};
    make_params(l);
    load_weights(l, resume, state);
    size_t learned = learning(l->params);
    if (learned != params_elements(l->params))
        log_info("%zu parameters learn%s", learned, opt->lora_rank ? ", LoRA's factors" : "");
    l->seed = state->seed;
    make_model(l);
    make_step(l);
    comm_rank0_begin(comm);
    make_teacher(l);
    if (l->teacher) teacher_load(l->teacher, opt->distill_pretrained);
    comm_rank0_end(comm);
}

/* ---- planning ---- */

static void plan_weights(const Learner *l, RunPlan *plan) {
    const Params *p = l->params;
    const OptimState *s = l->state;
    size_t (*size)(const void *) = l->k->device->size;
    plan_add(plan, p->frozen ? "master weights that learn" : "master weights",
             size(p->master) + size(s->slices));
    plan_add(plan, "frozen weights", size(p->frozen));
    plan_add(plan, "gradients", size(p->grad) + size(p->unused_grad));
    plan_add(plan,
             !s->v           ? "momentum"
             : is_sharded(s) ? "a share of two moments"
                             : "two moments",
             size(s->m) + size(s->v));
    plan_add(plan, "moving average", size(s->ema));
    plan_rest(plan, l->k, p->lora ? "compute weights, LoRA's sums" : "compute weights");
    plan->parameters = params_elements(p);
    plan->gradients = p->learning * l->k->acc_size;
    plan->weights =
        p->master_first * l->k->act_size + (p->learning - p->master_first) * l->k->acc_size;
}

void learner_plan(Learner *l, const Kernels *k, const Comm *comm, const ClipConfig *c,
                  const TrainOptions *opt, RunPlan *plan) {
    static const char of_step[] = "a step: its batch, features, logits";
    *l = (Learner){.k = k, .comm = comm, .config = c, .opt = opt};
    make_params(l);
    if (opt->ema > 0) optim_state_track(l->state, opt->ema);
    share_masters(l->state);
    plan_weights(l, plan);
    make_model(l);
    plan_rest(plan, k,
              opt->grad_checkpointing ? "activations, checkpointed (at most)"
              : opt->caption_rows     ? "activations (captions of --text-rows)"
                                      : "activations (at most: captions all full)");
    make_step(l);
    plan_rest(plan, k, of_step);
    make_teacher(l);
    plan_rest(plan, k, "teacher: weights, activations, features");
    encoder_close(encoder_of(l, NULL));
    extend(l);
    plan_rest(plan, k, of_step);
}

/* ---- frozen towers ---- */

static bool captions_stay(const TrainOptions *opt) {
    return opt->captions != CAPTIONS_RANDOM && !strpbrk(opt->text_key, ",:");
}

static void say_cache(const char *what, const FeatureCache *c) {
    log_info("the %s tower is frozen: features of %zu samples computed once, in %.1f s (%.1f MiB)",
             what, c->count - c->missing, c->seconds,
             (double)(c->count * c->dim) * sizeof(float) / (1 << 20));
}

void learner_cache(Learner *l, Dataset *d, const Transform *t, const Tokenizer *tokenizer,
                   uint64_t samples) {
    const TrainOptions *opt = l->opt;
    size_t count = dataset_count(d), E = l->config->embed_dim;
    bool fits = (double)count * (double)E * sizeof(float) <= (double)opt->feature_cache * (1 << 20);
    bool worth = fits && samples > count && !dataset_feed(d);
    bool images = worth && image_is_frozen(opt) && !t->train && l->config->patch_dropout == 0,
         texts = worth && text_is_frozen(opt) && captions_stay(opt);
    Encoder *e = images || texts ? encoder_of(l, tokenizer) : NULL;
    if (images) {
        l->images = feature_cache_images(e, l->comm, d, (size_t)image_max_pixels);
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
