"""Image pairs with optical flow, which encoder and decoder are pre-trained on.

A source gives pairs by number: `pairs` reads folders (FlyingChairs2, FlyingChairs, Middlebury),
`synthetic_pairs` renders layered scenes whose flow and occlusion are exact. `inversion` derives
backward flow where a data set has forward flow only. `batches` crops, changes colours and orders
samples as a function of (seed, sample number) alone, so that neither workers nor a resume change
what a step sees. No networks: the losses are in `stages/pretraining.py`.
"""
