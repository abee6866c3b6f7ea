#include "train/model/image_tower.h"

void image_tower_init(ImageTower *t, const Kernels *k, const ClipConfig *c, const Params *p,
                      const ClipOptions *o) {
    t->convolutional = c->image.conv.kind != CONV_NONE;
    if (t->convolutional)
        resnet_init(&t->resnet, k, c, p, o);
    else
        vit_init(&t->vit, k, c, p, o);
}

void image_tower_free(ImageTower *t) {
    t->convolutional ? resnet_free(&t->resnet) : vit_free(&t->vit);
}

void image_tower_layout_kept(ImageTower *t, Arena *a) {
    t->convolutional ? resnet_layout_kept(&t->resnet, a) : vit_layout_kept(&t->vit, a);
}

void image_tower_layout_scratch(ImageTower *t, Arena *a) {
    t->convolutional ? resnet_layout_scratch(&t->resnet, a) : vit_layout_scratch(&t->vit, a);
}

void image_tower_start(ImageTower *t) {
    t->convolutional ? resnet_start(&t->resnet) : vit_start(&t->vit);
}

void image_tower_load(ImageTower *t, const ClipBatch *b, bool keep) {
    t->convolutional ? resnet_load(&t->resnet, b, keep) : vit_load(&t->vit, b, keep);
}

void image_tower_fwd(ImageTower *t, bool keep) {
    t->convolutional ? resnet_fwd(&t->resnet, keep) : vit_fwd(&t->vit, keep);
}

void image_tower_bwd(ImageTower *t) {
    t->convolutional ? resnet_bwd(&t->resnet) : vit_bwd(&t->vit);
}

bool image_tower_trains(const ImageTower *t) {
    return t->convolutional ? resnet_trains(&t->resnet) : vit_trains(&t->vit);
}

bool image_tower_training(const ImageTower *t) {
    return t->convolutional ? t->resnet.training : t->vit.tower.training;
}

void image_tower_learning(ImageTower *t, bool learning) { t->resnet.learning = learning; }

TowerView image_tower_view(ImageTower *t, bool keep) {
    if (t->convolutional) {
        Resnet *r = &t->resnet;
        const ResnetPass *s = keep ? &r->kept : &r->transient;
        return (TowerView){&r->seq, s->unit, s->raw, s->o, r->E, &r->ready};
    }
    Vit *v = &t->vit;
    const TowerPass *s = keep ? &v->tower.kept : &v->tower.transient;
    return (TowerView){&v->seq, s->unit, s->raw, s->pooled, v->tower.E, &v->tower.ready};
}

void image_tower_on_pooled(ImageTower *t, PooledGradient call) {
    *(t->convolutional ? &t->resnet.on_pooled : &t->vit.tower.on_pooled) = call;
}

size_t image_tower_most(const ImageTower *t) {
    return t->convolutional ? t->resnet.max_B : t->vit.tower.max_B;
}

size_t image_tower_pixels(const ImageTower *t) {
    size_t side = t->convolutional ? t->resnet.side : t->vit.image_size;
    return 3 * side * side;
}

size_t image_tower_kept(const ImageTower *t) {
    const Vit *v = &t->vit;
    return !t->convolutional && v->kept_grid < v->grid ? v->kept_grid : 0;
}

void image_tower_draw(const ImageTower *t, int32_t *keep, const uint64_t *sample, uint64_t draw,
                      size_t B) {
    const Vit *v = &t->vit;
    for (size_t i = 0; i < B; i++)
        patch_dropout_draw(keep + i * v->kept_grid, v->kept_grid, v->grid, v->seed, sample[i],
                           draw);
}
