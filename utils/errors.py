"""Errors that a user can fix: scripts print their text alone, without a traceback.

Anything else that a script raises is a defect of the project.
"""


class UserError(ValueError):
    """Base of every error whose cause lies in the user's input, machine or command.

    The message names the file or flag, what was found, what was needed and how to fix it.
    """


class ConfigError(UserError):
    """A flag or a config file has a key or value that cannot be used."""


class SceneError(UserError):
    """A scene folder cannot be read, or its content does not fit together."""


class ExportedSceneError(UserError):
    """An exported scene is damaged, of a later version, or its parts do not fit together."""


class CheckpointError(UserError):
    """A checkpoint is damaged, of another architecture, or holds more than tensors and numbers."""


class WriteError(UserError):
    """A result could not be written: no permission, no space, no such place."""


class MissingExtraError(UserError):
    """An optional package is absent; the message has the command that installs it."""


class DownloadError(UserError):
    """A file of the manifest is missing, or is not the one that the manifest names."""


class RankError(UserError):
    """Another process of the same run failed or ended."""
