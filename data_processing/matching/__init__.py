"""Points that photographs have in common: features, their matches, tracks and points in space.

Here lives the search for features of photographs (`features`), which the check of scenes uses too,
and the way from the training photographs to points of the surface: matches along the epipolar
lines of the cameras (`guided_matches`), tracks of several views (`tracks`), triangulation and its
gates (`surface_points`), their picture (`pictures`). How a surface is drawn to the points is a loss
(`loss_functions`); whether cameras are right is for `data_processing/checks` to say.
"""
