/* torchwriter: a dictionary of tensors as `torch.save` writes it: a stored zip archive, the pickle
 * in protocol 2. Used like the writer of data/tensors/safetensors.h. Source:
 * torch/serialization.py, caffe2/serialize/inline_container.cc. */
#pragma once
#include "data/tensors/safetensors.h"

typedef struct TorchWriter TorchWriter;
/* path: a new file. Reads name, dtype (F64, F32, F16, BF16), ndim and shape of each tensor. */
TorchWriter *torchwriter_create(const char *path, const Tensor *tensors, size_t count);
/* Appends the tensors' bytes, in order, in pieces of any size. */
void torchwriter_append(TorchWriter *w, const void *bytes, size_t n);
/* Fsynced. Frees the writer. False: the file is incomplete and was removed. */
bool torchwriter_finish(TorchWriter *w, Error *err);
/* Frees the writer and removes the file. */
void torchwriter_abandon(TorchWriter *w);
