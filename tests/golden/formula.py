"""Values that tests compute as well, for the scripts beside it."""
import numpy as np


def values(k, n):
    """golden_value(k, 1 … n) of tests/support_model.h."""
    m = np.uint64(0xFFFFFFFF)
    h = (np.arange(1, n + 1, dtype=np.uint64) * np.uint64(2654435761)) & m
    h ^= np.uint64((k + 1) * 2246822519 & 0xFFFFFFFF)
    for shift, factor in ((15, 2246822519), (13, 3266489917)):
        h ^= h >> np.uint64(shift)
        h = (h * np.uint64(factor)) & m
    h ^= h >> np.uint64(16)
    return h.astype(np.float64) / 2**32 * 2 - 1
