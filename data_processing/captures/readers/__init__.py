"""Readers of captures with cameras, a module for each format.

Each has one function that tells whether a folder has the format, and one that returns a `Capture`.
`data_processing/captures/recognising.py` tries them in turn; `foreign.py` names the formats that
are not read, with the export that is. Photographs without cameras are no format: their cameras are
found in `data_processing/captures/structure_from_motion.py`.
"""
