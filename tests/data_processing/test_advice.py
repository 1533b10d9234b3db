"""What messages say is to be done is done, and the input then passes.

The cases are in `support/advice`: for each refusal of the readers, the import, the check and the
command line a fault, and each cure that it names as a function.
"""
from __future__ import annotations

import shutil
import subprocess

import pytest
from support.advice import captures, flow, scenes, settings, tools
from support.advice.table import Case, imported, refusal_of, refusals, refusals_in, tiny
from support.capture_files import write_transforms

from data_processing.captures.readers.foreign import FORMATS
from utils.errors import SceneError, UserError

CASES = tuple(case for module in (captures, tools, scenes, settings, flow)
              for case in module.CASES)
#: Refusals without a cure that a test can follow, and why.
WITHOUT_A_CURE = {
    "importing: {}: {}": "puts a photograph's name before what another refusal says",
    "COLMAP could place no two photographs": "asks for other photographs of the object"}


def cures() -> list:
    """Each cure of each case, by the module and words of its refusal."""
    return [pytest.param(case, number, id=f"{case.site[:40]} {number}")
            for case in CASES for number in range(len(case.cures))]


@pytest.mark.parametrize("case, number", cures())
def test_what_a_refusal_says_is_done_and_works(tmp_path, case: Case, number: int):
    folder = tmp_path / "capture"
    with pytest.raises(UserError) as refused:
        case.refused(folder)
    assert refusal_of(case.site).says(str(refused.value)), refused.value
    case.cures[number](folder)


def test_each_refusal_has_a_case():
    """A new refusal fails here until its cure is followed, or is known to be none."""
    covered = {refusal_of(case.site) for case in CASES}
    listed = {refusal_of(site) for site in WITHOUT_A_CURE}
    missing = [refusal for refusal in refusals() if refusal not in covered | listed]
    assert not missing, "add cases to tests/support/advice:\n" + "\n".join(
        f"{refusal.place} {refusal.text}" for refusal in missing)
    assert not covered & listed and all(case.cures for case in CASES)


def test_each_format_that_is_not_read_has_a_case():
    assert set(captures.FOREIGN) == {name for _, name, _ in FORMATS}


def test_refusals_are_found_in_code(tmp_path):
    """Long texts, texts in parts, and errors that are made in one place and raised in another."""
    (tmp_path / "a.py").write_text(
        'def f(x):\n    raise SceneError(f"{x}: bad" " thing; " + CURE)\n'
        'def g():\n    return ConfigError("no")\ndef h():\n    raise ValueError("ours")\n')
    found = list(refusals_in(tmp_path / "a.py"))
    assert {refusal.text for refusal in found} == {"a: {}: bad thing; {}", "a: no"}
    first = next(refusal for refusal in found if "bad" in refusal.text)
    assert first.says("file: bad thing; mend it") and not first.says("file: good thing; mend it")


def test_the_command_for_another_encoding_works(tmp_path):
    if shutil.which("iconv") is None:
        pytest.skip("needs iconv, which the message names")
    folder = write_transforms(tiny(), tmp_path / "capture")
    path = folder / "transforms.json"
    path.write_bytes(path.read_text().encode("utf-16"))
    with pytest.raises(SceneError, match="iconv -f utf-16") as refused:
        imported(folder)
    command = str(refused.value)[str(refused.value).index("iconv"):]
    path.write_bytes(subprocess.run(command, shell=True, check=True, capture_output=True).stdout)
    assert len(imported(folder)) == 4
