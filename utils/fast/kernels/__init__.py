"""Numba kernels: loops in machine code for float32 on the CPU; numba is an optional extra.

`loading` imports them on first use and says once in the log when they cannot be had. Each kernel
has a plain form in torch beside its caller, which runs without numba and is its twin in the tests.
"""
