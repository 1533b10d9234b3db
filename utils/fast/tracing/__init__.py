"""Sphere tracing with few SDF evaluations; the twin of all of it is `sdf_rendering`.

`cpu_tracer` searches on a grid of the SDF and settles hits with the SDF itself; `gpu_tracer` does
so with tensors of fixed shape, as every question about a value makes a GPU's host wait, and
`triton_kernel` is its fused march. `network_passes` has what both evaluate for losses.
"""
