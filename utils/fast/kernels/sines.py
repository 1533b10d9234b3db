"""Sines of sine layers in machine code; needs numba, an extra. For float32, without Python's lock.

sin and cos of x are polynomials of what is left of x less half or quarter turns, a quarter or an
eighth of one at most. Their coefficients are minimax fits; the results are right to 1.5e-7 where
|x| < 1e4. Beyond, they are as right as a float32 x is: its neighbours are as far apart. From 2e7
on, where those are more than a quarter turn apart, they are some numbers in [-1, 1].
"""
from __future__ import annotations

import math

import numpy as np
from numba import njit

#: pi / 2 in three parts; a count of turns times one of the first two is exact in float32.
_FIRST = np.float32(1.5703125)
_SECOND = np.float32(4.8375129e-4)
_THIRD = np.float32(math.pi / 2 - 1.5703125 - float(_SECOND))
_QUARTERS = np.float32(2 / math.pi)                       # quarter turns in a radian
_LIMIT = np.float32(1.58)                                  # of what is left: a quarter turn
_TWO = np.float32(2)

#: sin r = r + r^3 (a + b r^2 + ...), |r| <= pi / 2, to 5e-9.
_SINE = tuple(map(np.float32, (-1.666665706e-1, 8.333016355e-3, -1.980654710e-4, 2.599903239e-6)))
#: The same for |r| <= pi / 4, to 2e-9; and cos r = 1 - r^2 / 2 + r^4 (a + b r^2 + ...), to 1e-10.
_SHORT_SINE = tuple(map(np.float32, (-1.666665062e-1, 8.331975966e-3, -1.949529328e-4)))
_SHORT_COSINE = tuple(map(np.float32, (4.166664681e-2, -1.388736448e-3, 2.443809085e-5)))

_inlined = njit(nogil=True, cache=True, inline="always", fastmath={"contract"})
_ROWS, _ROW = "float32[:, ::1]", "float32[::1]"


@_inlined
def _left(x: np.float32, turns: np.float32, each: np.float32) -> np.float32:
    """x less a number of turns, `each` quarter turns long."""
    rest = ((x - turns * (each * _FIRST)) - turns * (each * _SECOND)) - turns * (each * _THIRD)
    rest = -_LIMIT if rest < -_LIMIT else rest            # what is not a number stays so
    return _LIMIT if rest > _LIMIT else rest


@_inlined
def _sine(x: np.float32) -> np.float32:
    halves = np.rint(x * (_QUARTERS / _TWO))
    r = _left(x, halves, _TWO)
    square = r * r
    a, b, c, d = _SINE
    found = r + r * square * (a + square * (b + square * (c + square * d)))
    return -found if np.int32(halves) & 1 else found


@_inlined
def _sine_and_cosine(x: np.float32) -> tuple[np.float32, np.float32]:
    quarters = np.rint(x * _QUARTERS)
    r = _left(x, quarters, np.float32(1))
    square = r * r
    a, b, c = _SHORT_SINE
    sine = r + r * square * (a + square * (b + square * c))
    a, b, c = _SHORT_COSINE
    cosine = np.float32(1) - square / _TWO + square * square * (a + square * (b + square * c))
    count = np.int32(quarters)
    first, second = (cosine, sine) if count & 1 else (sine, cosine)
    return -first if count & 2 else first, -second if (count + 1) & 2 else second


@njit(f"void({_ROWS}, {_ROW})", nogil=True, cache=True, fastmath={"contract"})
def add_and_sine(phases: np.ndarray, bias: np.ndarray) -> None:
    """Turn phases (N, M) into sin(phases + bias), bias (M,)."""
    for row in range(phases.shape[0]):
        for column in range(phases.shape[1]):
            phases[row, column] = _sine(phases[row, column] + bias[column])


@njit(f"void({_ROWS}, {_ROW}, {_ROWS})", nogil=True, cache=True, fastmath={"contract"})
def add_and_sine_and_cosine(phases: np.ndarray, bias: np.ndarray, sines: np.ndarray) -> None:
    """Write sin(phases + bias) into `sines` (N, M), and turn the phases into cosines."""
    for row in range(phases.shape[0]):
        for column in range(phases.shape[1]):
            sine, cosine = _sine_and_cosine(phases[row, column] + bias[column])
            sines[row, column], phases[row, column] = sine, cosine
