"""How a flag is declared: the fields of the sections, and what they carry."""
from __future__ import annotations

import dataclasses
from typing import Any


def flag(default: Any, text: str, *, unit: str = "", **extra: Any) -> Any:
    """Makes the dataclass field of one flag.

    Args:
        default: the value without the flag; its type is the flag's type.
        text: the help of the flag.
        unit: the unit of a number.
        extra: any of `choices` (tuple of admitted values), `minimum` (least admitted number),
            `no_effect` (what does it here), `aliases` (other names), `element` (type of a tuple's
            items), `length` (number of a tuple's items), `many` (a string of several words),
            `bare` (a switch that is 1 when it stands without a value).

    Returns:
        The field.
    """
    return dataclasses.field(default=default, metadata={"help": text, "unit": unit, **extra})


def switch(default: int, text: str, **extra: Any) -> Any:
    """Makes the field of a flag that is 0 (off) or 1 (on); `extra` as in `flag`."""
    return flag(default, text, choices=(0, 1), **extra)
