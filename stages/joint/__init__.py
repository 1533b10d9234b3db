"""Joint training of the image networks over many scenes, before the first step of any of them.

Here are the surfaces that the scenes' runs would start from, and the training on them. Reptile and
MAML, which learn from the steps of a scene, are in `stages/meta_training.py`.
"""
