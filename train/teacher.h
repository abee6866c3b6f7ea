/* teacher: a second model that is not trained. The student is compared with its features of the
 * same batches (distillation: Hinton et al. 2015; open_clip's --distill-model). */
#pragma once
#include "train/model/clip.h"

typedef struct Teacher Teacher;
/* pretrained: a folder (which has the architecture) or, with model, a file. It reads the student's
 * batches; o: the student's options. rows: of all micro-batches. Exits with an error on a mismatch.
 */
Teacher *teacher_new(const Kernels *k, const char *model, const char *pretrained,
                     const ClipConfig *student, const ClipOptions *o, size_t rows);
/* Reads its weights; call it before the first forward. */
void teacher_load(Teacher *t, const char *pretrained);
/* clip_plan of the largest micro-batch. */
void teacher_plan(const Teacher *t);
void teacher_free(Teacher *t);
size_t teacher_dim(const Teacher *t);
/* Computes the features of a micro-batch of the student, without patch dropout, into rows row … of
 * teacher_images and teacher_texts. */
void teacher_forward(Teacher *t, const ClipBatch *b, size_t row);
const acc *teacher_images(const Teacher *t); /* [rows,dim], device */
const acc *teacher_texts(const Teacher *t);
const acc *teacher_log_scale(const Teacher *t);
