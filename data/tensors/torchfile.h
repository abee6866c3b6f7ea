/* torchfile: the tensors of a PyTorch file (`torch.save` since 1.6, TorchScript), an archive of a
 * pickle and the raw storages. Nothing in it is run. Source: torch/serialization.py,
 * caffe2/serialize/inline_container.h. */
#ifndef DATA_TENSORS_TORCHFILE_H
#define DATA_TENSORS_TORCHFILE_H
#include "data/io/mapfile.h"
#include "data/tensors/safetensors.h"
#include "data/tensors/zip.h"

typedef struct TorchFile {
    Tensor *tensors; /* row-major, whatever the file's strides */
    size_t count;
    bool script; /* TorchScript: names are the modules' paths */
    MapFile map;
    Zip zip;
    void **copies; /* data that had to be laid out anew */
    size_t copy_count;
} TorchFile;

/* Whether a file starts as an archive, or as the older form of torch.save, which is refused. */
bool torchfile_is(const unsigned char *bytes, size_t n);
/* The tensors of the dictionary (its "state_dict", where it has one) or of the module tree. */
bool torchfile_open(TorchFile *f, const char *path, Error *err);
/* Whether all members have the checksums that the archive says. */
bool torchfile_verify(const TorchFile *f, Error *err);
void torchfile_close(TorchFile *f);
#endif
