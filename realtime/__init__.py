"""Exported scenes: their file format, and pictures of them without the networks that trained them.

`scene` says what an exported scene is; `archive`, `description`, `maps` and `glb` are the parts of
its format (docs/scene_format.md), which `writing` and `reading` join; `students` has the two small
networks that stand in for G and D; `mesh_rays` and `renderer` make pictures; `web_page` makes a
page that does, from its sources in `page/`, and `page_blocks` what its shaders read.

Nothing here knows how a scene is trained, or reads a pickle: `stages/exporting` makes the scenes.
"""
