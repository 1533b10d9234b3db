"""The check of a scene before anything is trained on it.

`states` measures: photographs against cameras by matched points (`epipolar`), masks against cameras
by their visual hull. `causes` names what is wrong in the order of causes; `hypotheses` undoes one
usual mistake after the other, so that the mistake is named and not only its symptom. `scene_checks`
collects findings with their cures, `sheet` shows them as an image grid, `folder_checks` writes it.
A scene itself is never changed: mistakes are undone in a copy, where that is asked for.
"""
