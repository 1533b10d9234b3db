"""What each command runs, from its flags to its files; the scripts only parse and call.

`models` and `scene` join networks, data and training by the flags; `shape_fitting`, `pretraining`
and `meta_training` are the other trainings; `view_rendering`, `evaluation` and `results` show what
came out; `benchmark` measures it.

The stages stand above the libraries because they need several that must not know of each other:
`training` knows no scene folder, `modules_sdf` no flags, `utils.runs.loop` no model. Nothing but
the scripts imports a stage.
"""
