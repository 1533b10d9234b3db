"""The values of flags as text: reading what the user wrote, writing values and the help."""
from __future__ import annotations

from typing import Any

from utils.config.flags import Flag
from utils.errors import ConfigError

MAX_NUMBER = 2**53                # whole numbers up to it are exact as floats


def value_of(flag: Flag, raw: str | list[str], source: str) -> Any:
    """Convert what the user wrote to the type of a flag.

    Args:
        flag: the flag.
        raw: a text, or the words that followed the flag.
        source: where the text is from, for the message.

    Returns:
        The value; "none" stands for an empty text or tuple, unless it is one of the choices.

    Raises:
        ConfigError: the flag does not admit the value.
    """
    if isinstance(raw, list) and flag.element is str:
        return tuple(raw)                  # words of the command line, spaces and commas kept
    text = " ".join(raw) if isinstance(raw, list) else raw
    text = text.strip()
    if text.lower() == "none" and "none" not in flag.choices:
        text = ""
    try:
        value = _converted(flag, text)
    except ValueError:
        value = None
    if value is None or not is_admitted(flag, value):
        raise ConfigError(f"{source}: {flag.name} is '{text}', needed {_needed(flag)}")
    return value


def _converted(flag: Flag, text: str) -> Any:
    """Return the text as the flag's type; ValueError where that cannot be."""
    if isinstance(flag.default, tuple):
        words = text.strip("[]()").replace(",", " ").split()
        return tuple(flag.kind(word) for word in words)
    if isinstance(flag.default, str) and "\n" in text:
        raise ValueError("a line break would break the saved config file")
    return flag.kind(text)


def is_admitted(flag: Flag, value: Any) -> bool:
    """Return whether a flag admits a value of the right type."""
    if flag.length is not None and len(value) not in {len(flag.default), flag.length}:
        return False
    if flag.choices and value not in flag.choices:
        return False
    items = value if isinstance(value, tuple) else (value,)
    least = -MAX_NUMBER if flag.minimum is None else flag.minimum
    numbers = [item for item in items if isinstance(item, (int, float))]
    return all(abs(number) <= MAX_NUMBER and number >= least for number in numbers)


def _needed(flag: Flag) -> str:
    """Return in a few words which values a flag takes."""
    if flag.choices:
        return "|".join(str(choice) or "none" for choice in flag.choices)
    word = {int: "whole number", float: "number", str: "line of text"}[flag.kind]
    words = f"a {word}"
    if isinstance(flag.default, tuple):
        words = f"{word}s" if flag.length is None else f"{flag.length} {word}s"
    return words + ("" if flag.minimum is None else f" of at least {flag.minimum}")


def metavar(flag: Flag) -> str:
    """Return what stands for a flag's value in the usage."""
    if flag.choices:
        return f"{{{','.join(map(str, flag.choices))}}}"
    return flag.kind.__name__.upper()


def help_text(flag: Flag) -> str:
    """Return help, unit, default and, for a flag without effect, why it has none, in one line."""
    unit = f" [{flag.unit}]" if flag.unit else ""
    reason = f"; without effect: {flag.no_effect}" if flag.no_effect else ""
    text = f"{flag.help}{unit} (default: {as_text(flag.default) or 'none'}){reason}"
    return text.replace("%", "%%")


def as_text(value: Any) -> str:
    """Return a value as a config file holds it, so that reading the file gives it back."""
    if isinstance(value, (tuple, list)):
        return ",".join(repr(item) for item in value) or "None"
    text = str(value)
    if any(mark in text for mark in (" #", " ;", "'", '"')):
        quote = "'" if '"' in text else '"'
        return f"{quote}{text}{quote}"
    return text
