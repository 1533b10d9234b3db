"""Weights in files: what a run stores, what a model starts from, what ships with the project.

A checkpoint is read and checked once (`inspection`, `storage`) and handed on as an object
(`checkpoint`), so that no file is opened again for each question that is asked of it. `networks`
tells which networks a file holds, under our names or those of the released code
(`released_names`); `weights` turns flags into the weights that a model starts from; `manifest`
verifies the files that ship.

Nothing here knows how a network is built or trained: the loop of a run decides when to save, the
trainer what. Pickle and torch.load alone are not trusted: files come from others.
"""
