"""Captures: photographs with cameras as other tools leave them, and their import as scenes.

Each reader (`colmap_project`, `transforms_format`, `middlebury_format`, `structure_from_motion`)
returns a `Capture`; `paths` finds the files that it names. Nothing behind the readers knows where
the cameras came from. `pinhole_images` removes distortion and brings all photographs to one size,
`masks` finds masks or makes them, `importing` puts these steps together and writes a scene folder.
Scene folders themselves are read and written by `data_processing/scenes`. COLMAP runs through
pycolmap, an optional extra: its files are read here without it.
"""
