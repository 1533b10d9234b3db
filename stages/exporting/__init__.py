"""From a finished run to an exported scene (docs/realtime.md).

`simplification` makes the mesh small, `assembly` collects what the scene holds, `virtual_views` and
`teaching` make the pictures of which `distillation` teaches the two small networks, `losses`
measures what each step costs, `export` is all of it in order; `frame_times` measures pictures.

What an exported scene is, and its files, belong to `realtime/`, which knows nothing of training.
"""
