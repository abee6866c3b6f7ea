/* positions: positional embeddings for another image size or context length (docs/NUMERICS.md,
 * 'Position resizing'). */
#pragma once
#include "kernels/base.h"

/* from [rows,C] → malloc'd [n,C]. image: a class row if n is one more than a square, then a square
 * grid, resized bicubically with antialiasing; otherwise linearly, without, and the first `kept`
 * rows are copied (Zhang et al. 2024, Long-CLIP). NULL: rows or n is no such grid, nothing, or no
 * more than `kept`. */
float *positions_resize(const float *from, size_t rows, size_t n, size_t C, bool image,
                        size_t kept);
