"""K-means codebooks: weights that share ``2**bits`` values per layer, HAQ's quantizer under a size budget.

After Han et al., "Deep Compression", ICLR 2016, and HAQ's public code (Wang et al., CVPR 2019): k-means++, one start,
few iterations over the flattened weights of a layer, and after every step of training each weight becomes its
cluster's mean. The values are floats anywhere, so no integer machine runs them; they save memory only. Activations
stay floats.
"""

import warnings

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

from hardware.errors import InputError
from hardware.schedule import MAX_BITS

SEARCH_ITERATIONS = 3
"""K-means iterations while searching, as HAQ's code has it (50 for the last fine-tune)."""


class Codebook:
    """The clusters of one layer's weights.

    Parameters
    ----------
    weights:
        Float, any shape.
    bits:
        1 to 8; ``2**bits`` clusters, or as many as there are different weights.
    iterations:
        Of k-means.
    seed:
        Of k-means++.

    Raises
    ------
    InputError
        Bits out of range.
    """

    def __init__(self, weights: torch.Tensor, bits: int, iterations: int = SEARCH_ITERATIONS, seed: int = 0) -> None:
        if not 1 <= bits <= MAX_BITS:
            raise InputError(f"expected codebooks of 1 to {MAX_BITS} bits, got {bits}: raise the lowest bits to 1.")
        values = weights.detach().reshape(-1, 1).double().numpy()
        distinct = np.unique(values)
        if len(distinct) <= 2**bits:
            labels = np.searchsorted(distinct, values[:, 0])
        else:
            # tol 0: always all iterations, or until nothing moves.
            means = KMeans(2**bits, n_init=1, max_iter=iterations, tol=0, random_state=seed, algorithm="lloyd")
            labels = _nearest(values[:, 0], _fitted(means, values))
        self.labels = torch.from_numpy(labels.astype(np.int64))
        self.size = int(self.labels.max()) + 1

    def project(self, weights: torch.Tensor) -> None:
        """Replace every weight, in place, by the mean of its cluster."""
        flat = weights.reshape(-1)
        sums = torch.zeros(self.size, dtype=torch.float64).index_add_(0, self.labels, flat.double())
        counts = torch.bincount(self.labels, minlength=self.size).clamp(min=1)
        weights.copy_((sums / counts)[self.labels].to(flat.dtype).reshape(weights.shape))


def _fitted(means: KMeans, values: np.ndarray) -> np.ndarray:
    """Cluster centres, sorted."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # few iterations are meant
        return np.sort(means.fit(values).cluster_centers_[:, 0])


def _nearest(values: np.ndarray, centres: np.ndarray) -> np.ndarray:
    return np.searchsorted((centres[1:] + centres[:-1]) / 2, values)
