"""Files to scenes, and synthetic scenes: everything that needs no networks.

`scenes` reads and writes scene folders, `captures` imports what other tools leave, `checks` says
whether a scene can be trained on, `synthetic` renders scenes with known truth, and `flow` has the
image pairs of pre-training. These packages know cameras and files, and `utils`; they import neither
networks nor training, so that a scene can be made, imported and checked without them.
"""
