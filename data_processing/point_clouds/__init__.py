"""Files of point clouds, in the space that they were written in.

Here live the readers: PLY (`ply_format`) and lines of numbers (`xyz_format`). Which clouds belong
to a scene, and their way to world space, is the concern of `data_processing/scenes`.
"""
