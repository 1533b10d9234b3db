"""The check of a scene before anything is trained on it.

`scene_checks` measures and collects findings, each with its cure: photographs against cameras by
matched points (`epipolar`), masks against cameras by their visual hull (`camera_findings`). Where
something does not fit, `hypotheses` undoes one usual mistake after the other, so that the finding
names the mistake and not only its symptom. `sheet` shows the result as an image grid. Nothing here
changes a scene: a mistake is named, never repaired in silence.
"""
