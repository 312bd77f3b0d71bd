"""Functions of the block signature, in Python for numba to compile."""

import math


def softmax(y, label, raw, loss, grad, hess, n, K, params, data):
    """Cross-entropy of labels."""
    for i in range(n):
        top = raw[i * K]
        for k in range(1, K):
            top = max(top, raw[i * K + k])
        total = 0.0
        for k in range(K):
            grad[i * K + k] = math.exp(raw[i * K + k] - top)
            total += grad[i * K + k]
        loss[i] = math.log(total) + top - raw[i * K + label[i]]
        for k in range(K):
            grad[i * K + k] /= total
        grad[i * K + label[i]] -= 1.0
    return n
