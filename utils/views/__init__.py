"""The views of a scene in training: photographs, masks, what they see, what a step takes of them.

Three words for parts of images: crops change what is trained (`target_crops`, `source_crops`),
regions are lossless and only save work (`regions`), tiles bound memory (`tiles`). Cameras and rays
are in `utils/geometry`; readers of scene folders are in `data_processing/scenes`.
"""
