"""Scene folders: photographs, masks and cameras in one object space, read, split and written.

A reader of one format (`processed_format`, `idr_format`) returns a `FoundScene`, files and cameras
before any pixel is read; `scene` makes a `Scene` of it and is the only door for the rest of the
project. `normalization` and `object_space` say where object space comes from, `splits` which views
are held out, `opening` follows the flags of a run, `pool` keeps many scenes within a bound of
memory. Captures of other tools are turned into such folders by `data_processing/captures`; networks
and traced surfaces are not known here.
"""
