"""How uncertain each pixel of a prediction is: one figure of its probabilities."""

import math

import numpy as np
from scipy import special


def predictive_entropy(probabilities: np.ndarray) -> np.ndarray:
    """Returns the entropy of each pixel's probabilities, of the largest that is possible.

    It is -Σ p log p / log K (Shannon, 1948). Of an ensemble, whose probabilities are means, it
    holds both how unsure each network is and how far they disagree (Lakshminarayanan et al., 2017).

    Args:
        probabilities: float32 [..., K]; of two classes only the second's, K = 1.

    Returns:
        float32 [...]: 0 where one class is certain, 1 where all are equally probable.
    """
    if probabilities.shape[-1] == 1:
        p = probabilities[..., 0]
        entropy = special.entr(p) + special.entr(1 - p)
    else:
        entropy = special.entr(probabilities).sum(axis=-1)
    most = math.log(max(2, probabilities.shape[-1]))
    return np.clip(entropy / most, 0, 1).astype(np.float32)
