"""Synthetic scenes: analytic objects, rendered exactly, with true surface points.

`scene_kinds` draws solids from closed-form distances (`analytic_sdf`), `camera_arrangements` places
cameras like those of the data sets, `exact_tracing` and `shading` render the photographs, `scenes`
puts them together and writes scene folders. The same arguments give the same bits, so that tests
and demonstrations need no downloads. Rendering is independent of the method's tracer and networks:
otherwise a mistake in them could agree with the truth that they are compared with.
"""
