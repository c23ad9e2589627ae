"""Exact sums of floats, as whole numbers: the same in any order, and in any division among workers.

A float64 is a whole number of the least of them. The digits of a sum, in base 2**32, are kept
without carrying, so sums of such arrays are sums of what they stand for, up to 2**30 values.
"""

import math
from fractions import Fraction

import numpy as np

BITS = 32  # of a digit
DIGITS = 70  # from 2**LOWEST to the largest float64
LOWEST = -1126  # the exponent of the last bit of the least float64, written with 53 bits
# Beside the digits: how many values there are, and how many are infinite of either sign.
DEFINED, POSITIVE, NEGATIVE = DIGITS, DIGITS + 1, DIGITS + 2


def exact_sum(values: np.ndarray) -> np.ndarray:
    """Returns the sums of floats [N, *S] over N, int64 [*S, DIGITS + 3]; NaN counts for nothing."""
    values = np.asarray(values, np.float64)
    shape = values.shape[1:]
    values = values.reshape(len(values), math.prod(shape))
    mantissa, exponent = np.frexp(np.where(np.isfinite(values), values, 0.0))
    whole = np.ldexp(mantissa, 53).astype(np.int64)
    place, shift = np.divmod(exponent.astype(np.int64) - 53 - LOWEST, BITS)
    sign, whole = np.sign(whole), np.abs(whole)
    mask = 2**BITS - 1
    low, high = (whole & mask) << shift, (whole >> BITS) << shift
    found = np.zeros((values.shape[1], DIGITS + 3), np.int64)
    column = np.broadcast_to(np.arange(values.shape[1]), values.shape)
    parts = low & mask, (low >> BITS) + (high & mask), high >> BITS
    for offset, part in enumerate(parts):
        np.add.at(found, (column, place + offset), sign * part)
    found[:, DEFINED] = (~np.isnan(values)).sum(axis=0)
    found[:, POSITIVE] = np.isposinf(values).sum(axis=0)
    found[:, NEGATIVE] = np.isneginf(values).sum(axis=0)
    return found.reshape(*shape, DIGITS + 3)


def total(sums: np.ndarray) -> np.ndarray:
    """Returns what sums [*S, DIGITS + 3] stand for, float64 [*S]; NaN where there is no value."""
    return _floats(sums, np.minimum(sums[..., DEFINED], 1))


def mean(sums: np.ndarray) -> np.ndarray:
    """Returns the means of the values of sums, float64 [*S]; NaN where there is none."""
    return _floats(sums, sums[..., DEFINED])


def _floats(sums: np.ndarray, divisors: np.ndarray) -> np.ndarray:
    """Returns the float64 that is next to each quotient."""
    rows = sums.reshape(-1, DIGITS + 3).tolist()
    found = [_float(row, n) for row, n in zip(rows, divisors.ravel().tolist(), strict=True)]
    return np.array(found, np.float64).reshape(sums.shape[:-1])


def _float(row: list[int], divisor: int) -> float:
    positive, negative = row[POSITIVE] > 0, row[NEGATIVE] > 0
    if not divisor or (positive and negative):
        return float("nan")
    if positive or negative:
        return float("inf") if positive else float("-inf")
    whole = sum(digit << (BITS * place) for place, digit in enumerate(row[:DIGITS]))
    return float(Fraction(whole, divisor << -LOWEST))
