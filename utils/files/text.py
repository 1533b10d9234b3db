"""Text from files as it is printed, logged and put into tables: nothing in it acts.

A view, a scene or a file may be named anything: an escape sequence would recolour or retitle a
terminal, a line break forge a line of a log, a leading `=` become a formula of a spreadsheet.
"""
from __future__ import annotations

import logging
import re
from typing import Any

#: Control characters, marks that turn the direction of text, line separators, and bytes of a file
#: name that are not UTF-8.
_ACTIVE = ("\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069"
           "\ud800-\udfff")
_IN_NAME = re.compile(f"[{_ACTIVE}]")
#: In a message, a line break stays where the next line is indented, as only our own are.
_IN_MESSAGE = re.compile(f"\n(?! {{2}})|(?!\n)[{_ACTIVE}]")
_IN_TEXT = re.compile(f"(?!\n)[{_ACTIVE}]")
#: How a cell begins that a spreadsheet reads as a formula; full-width forms count too.
_FORMULA = tuple("=+-@\t\r\n＝＋－＠")
#: Where a spreadsheet of another country, which divides cells by semicolons, would find one.
_AFTER_SEMICOLON = re.compile(r"([;；]\s*)(?=[=+\-@＝＋－＠])")


def visible(name: object) -> str:
    r"""Return a name from a file with its control characters written as escapes: \x1b, \n."""
    return _IN_NAME.sub(_escape, str(name))


def visible_message(text: str) -> str:
    """Return a message, a line or more of which the others are indented, as `visible` does."""
    return _IN_MESSAGE.sub(_escape, text)


def show(text: object) -> None:
    """Print lines of text whose other control characters are made visible."""
    print(_IN_TEXT.sub(_escape, str(text)))


def csv_cell(value: Any) -> Any:
    """Return a value for a CSV file; text that a spreadsheet would run gets an apostrophe."""
    if not isinstance(value, str):
        return value
    begins_one = value.startswith(_FORMULA) or value.lstrip().startswith(_FORMULA)
    return ("'" if begins_one else "") + _AFTER_SEMICOLON.sub(r"\1'", visible(value))


class VisibleFormatter(logging.Formatter):
    """Formats records of a log with the control characters of their messages made visible."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the line of a record; a traceback, which comes after it, stays as it is."""
        record.message = visible_message(record.message)
        return super().formatMessage(record)


def _escape(match: re.Match[str]) -> str:
    """Return a character as Python writes it within quotes."""
    return match[0].encode("unicode_escape").decode("ascii")
