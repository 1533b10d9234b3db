"""The live viewer: a trained object under the mouse, in a browser of the same machine.

`subjects` says what is shown, an exported scene or a run; `outputs` what of it is seen; `windows`
turns a browser's camera into one of the project's; `recording` keeps paths and renders them; `live`
is the window itself, the only module that knows viser.
"""
