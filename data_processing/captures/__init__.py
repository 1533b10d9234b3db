"""Captures: photographs with cameras as other tools leave them, and their import as scenes.

Each module of `readers` returns a `Capture` of one format, `structure_from_motion` that of plain
photographs; `paths` finds the files that they name, `recognising` chooses. Nothing behind them
knows where the cameras came from. `pinhole_images` removes distortion and brings all photographs
to one size, `masks` finds masks or makes them, `importing` puts these steps together. Scene folders
are read and written by `data_processing/scenes`. COLMAP runs through pycolmap, an optional extra.
"""
