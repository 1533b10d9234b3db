"""A few hundred damaged files for each reader; `make trust` tries many more, with bounds of memory
and time."""
from __future__ import annotations

import logging
import warnings
from pathlib import Path

import pytest
from trust.fuzz_readers import Fuzzer, fuzz_here
from trust.readers import READERS

#: Inputs of readers that take 10 ms and more for one, or that see nearly all damage; of the others
#: MANY.
COUNTS = {"processed": 20, "idr": 20, "yaml": 20, "config": 15, "tables": 15, "run": 25,
          "keyframes": 120}
MANY = 40
#: The import of a capture takes half a second; its reader is `transforms`, which is here.
NAMES = [name for name in READERS if name != "import"]


CORPUS = Path(__file__).parent / "corpus"
#: READER/CASE, with the damaged files as they lie beside the sound ones.
CASES = sorted(path for path in CORPUS.glob("*/*") if path.is_dir())


@pytest.fixture(autouse=True)
def silence():
    """Readers log what they leave out, and libraries warn of damage."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logging.disable(level)


@pytest.mark.parametrize("name", NAMES)
def test_damaged_files_end_in_our_own_errors(name, tmp_path):
    outcome = fuzz_here(name, tmp_path, seed=2, first=0, count=COUNTS.get(name, MANY))
    assert not outcome.failures, outcome.failures
    assert 0 < outcome.accepted < outcome.inputs        # some damage does no harm, some does


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.relative_to(CORPUS).as_posix())
def test_what_was_found_once_stays_found(case, tmp_path):
    """Each folder of the corpus holds the damaged files of an input that once failed."""
    mutant = {path.relative_to(case).as_posix(): path.read_bytes()
              for path in sorted(case.rglob("*")) if path.is_file()}
    fuzzer = Fuzzer(READERS[case.parent.name], tmp_path, 0)
    assert mutant.keys() <= fuzzer.sound.keys()
    assert not fuzzer.read(mutant)                        # refused by an error of our own


@pytest.mark.parametrize("name", NAMES)
def test_sound_files_are_read_and_damage_is_the_same_again(name, tmp_path):
    fuzzers = [Fuzzer(READERS[name], tmp_path / place, 5) for place in "ab"]
    first = fuzzers[0].targets[0]
    assert fuzzers[0].read({first: fuzzers[0].sound[first]})
    for number in range(3):
        mutants = [fuzzer.mutant(number) for fuzzer in fuzzers]
        assert mutants[0].keys() == mutants[1].keys()
    if fuzzers[0].sound == fuzzers[1].sound:              # zip archives hold the time
        assert mutants[0] == mutants[1]
