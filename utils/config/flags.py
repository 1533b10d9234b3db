"""How a flag is declared: name, default, help, and which values it admits."""
from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Flag:
    """One flag of the command line and of config files.

    Attributes:
        name: without the dashes.
        default: the value where the flag is not given; its type is the flag's type.
        help: what the flag is for, in the words of `--help`.
        unit: of a number; "" for none.
        choices: the admitted values; none: any of the type.
        minimum: the least admitted number.
        element: the type of the items where the default is a tuple.
        length: the number of items of such a tuple, where it is fixed.
        aliases: other names that are accepted.
        many: whether a text may be given as several words.
        bare: whether a switch is 1 where it stands without a value.
        no_effect: for a flag that changes nothing, what holds instead; "" for all others.
    """

    name: str
    default: Any
    help: str
    unit: str = ""
    choices: tuple[Any, ...] = ()
    minimum: float | None = None
    element: type | None = None
    length: int | None = None
    aliases: tuple[str, ...] = ()
    many: bool = False
    bare: bool = False
    no_effect: str = ""

    @property
    def kind(self) -> type:
        """The type of the value, or of its items where it is a tuple."""
        return self.element or type(self.default)


def flag(default: Any, text: str, **details: Any) -> Any:
    """Return the dataclass field of a flag.

    Args:
        default: the value where the flag is not given.
        text: its help.
        details: further attributes of `Flag`, by name.
    """
    return dataclasses.field(default=default, metadata={"flag": Flag("", default, text, **details)})


def switch(default: int, text: str, **details: Any) -> Any:
    """Return the field of a flag that is 0 (off) or 1 (on); `details` as in `flag`."""
    return flag(default, text, choices=(0, 1), **details)


def declared_flags(section: type) -> dict[str, Flag]:
    """Return the flags that are fields of a section, by name."""
    return {field.name: dataclasses.replace(field.metadata["flag"], name=field.name)
            for field in dataclasses.fields(section)}
