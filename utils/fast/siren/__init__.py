"""The SIREN evaluated and differentiated chunk by chunk; its twin is `modules_sdf.SirenSDF`.

A chunk of points stays in a core's cache through all layers, which one batch of all points does
not. Losses on values and gradients are differentiated analytically: one pass back, no graph.
"""
