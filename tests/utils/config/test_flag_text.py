"""Values of flags as text and back."""
from __future__ import annotations

import pytest

from utils.config.flag_text import as_text, is_admitted, value_of
from utils.config.parser import SECTION_OF
from utils.config.released_flags import flags_of


@pytest.mark.parametrize("section", SECTION_OF.values())
def test_every_default_is_admitted_explained_and_read_back(section):
    for flag in flags_of(section).values():
        assert is_admitted(flag, flag.default), flag.name
        assert flag.help, flag.name
        if flag.length is None:             # an empty crop has no text of its own
            assert value_of(flag, as_text(flag.default), "a test") == flag.default, flag.name
