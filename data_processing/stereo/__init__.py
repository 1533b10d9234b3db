"""A surface from the training photographs alone: plane-sweep stereo inside the visual hull.

Here lives the way from calibrated photographs and masks to a signed distance grid: depth hypotheses
and their photo-consistency (`plane_sweep`), smoothing along the image (`aggregation`), depths of
all views (`depth_maps`) and their agreement (`consistency`), fusion inside the hull (`fusion`),
what the masks prove (`silhouettes`), exact distances (`distances`), the blend of source colours
that needs no network (`blending`), the choice between stereo, hull and sphere (`stereo_start`).
No networks live here, and no training: Phi is fitted to the grid elsewhere, as to a visual hull.
Rejected after measuring on five real scenes: larger patches, more planes, sweeps along the fused
surface in a second pass, sources more than 45 degrees apart, fewer confirmations of a depth.
"""
