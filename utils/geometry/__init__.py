"""Cameras, rays, signed distance functions and visual hulls: geometry without networks.

An SDF comes in as a callable, points (N, 3) to distances (N,), negative inside. Every quantity is
in object space, where the scene lies inside the unit sphere, unless its name says otherwise.
`rays.Tracer` is the interface of all tracers; the tracers themselves are in `sdf_rendering` (the
reference) and `utils/fast/tracing` (its faster twins). What views see is in `utils/views`.
"""
