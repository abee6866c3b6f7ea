/* torchfile: the tensors of a PyTorch file (`torch.save` since 1.6, TorchScript), an archive of a
 * pickle and the raw storages. No code in it is run. Source: torch/serialization.py,
 * caffe2/serialize/inline_container.h. */
#pragma once
#include "data/io/mapfile.h"
#include "data/tensors/safetensors.h"
#include "data/tensors/zip.h"

typedef struct TorchFile {
    Tensor *tensors; /* row-major, whatever the file's strides */
    size_t count;
    bool script; /* TorchScript: names are the modules' paths */
    MapFile map;
    Zip zip;
    void **copies; /* data that had to be copied into row-major order */
    size_t copy_count;
} TorchFile;

/* Returns true if a file starts as an archive, or as the older form of torch.save, which is
 * refused. */
bool torchfile_is(const unsigned char *bytes, size_t n);
/* The tensors of the dictionary (of its "state_dict", if it has one) or of the module tree. */
bool torchfile_open(TorchFile *f, const char *path, Error *err);
/* Returns true if all members match the archive's checksums. */
bool torchfile_verify(const TorchFile *f, Error *err);
void torchfile_close(TorchFile *f);
