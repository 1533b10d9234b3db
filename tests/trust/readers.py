"""The readers of files that may come from strangers, each with sound files to damage.

A reader is called with a folder. It may give anything back or raise a `UserError`; every other
exception is a failure.
"""
from __future__ import annotations

from trust.export_readers import EXPORT_READERS
from trust.resume_readers import RESUME_READERS
from trust.run_readers import RUN_READERS
from trust.scene_readers import CAPTURE_READERS, SCENE_READERS

READERS = {reader.name: reader for reader in (*SCENE_READERS, *CAPTURE_READERS, *RUN_READERS,
                                              *RESUME_READERS, *EXPORT_READERS)}
