"""Which views are trained on and which are held out.

The named splits are those of docs/method.md, section 2.
"""
from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from utils.errors import ConfigError

#: Leave-one-out needs a source besides the target.
MIN_TRAIN_VIEWS = 2
#: Without a data set's name and without lists, every 8th view is held out, from view 4 on.
DEFAULT_TEST_STEP, DEFAULT_TEST_START = 8, 4
ALL = "all"
_ITEM = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?")


@dataclass(frozen=True)
class Split:
    """Zero-based view numbers, ascending; no view is in both.

    Attributes:
        train: views that are trained on, and that are the sources at evaluation.
        test: held-out views; may be empty.
        name: 'dtu', 'nlr', 'shapenet', 'every8' or 'explicit', for logs.
    """

    train: tuple[int, ...]
    test: tuple[int, ...]
    name: str = "explicit"


@dataclass(frozen=True)
class _NamedSplit:
    """The split of a data set whose scenes have `num_views` views."""
    num_views: int                        # of a whole scene
    train: tuple[int, ...] | None         # None: all that are not tested
    test: tuple[int, ...]


NAMED_SPLITS = {
    "dtu": _NamedSplit(49, (1, 9, 17, 25, 33, 41, 47), (12, 32, 40)),
    "nlr": _NamedSplit(22, tuple(range(16, 22)), ()),
    "shapenet": _NamedSplit(24, None, (7, 16, 23)),
}


def resolve_split(num_views: int, dataset_name: str = "", *, train_views: str = "",
                  test_views: str = "", num_train_views: int = 0) -> Split:
    """Return the split of a scene.

    Named ones: dtu trains on 1,9,17,25,33,41,47 and tests on 12,32,40 of 49; nlr trains on 16..21
    of 22 and tests on none (the paper's results are on training views; 0..15 are held out);
    shapenet tests on 7,16,23 of 24 and trains on the rest. Without a name and without lists, views
    4, 12, 20, ... are held out and the rest trained on. A list overrides its half of the named
    split; without a name, one list alone leaves all other views to the other half.

    Args:
        num_views: views in the scene.
        dataset_name: 'dtu', 'nlr', 'shapenet' or ''.
        train_views, test_views: '' (not given), numbers and ranges as '0-5,9', or 'all': every
            view that is not in the other half.
        num_train_views: keep this many training views, see `spread_evenly`; those left out are in
            neither half, so that the held-out views stay the same. 0: keep all.
    Raises:
        ConfigError: an unknown name, a scene too small for the named split, a malformed list, a
            view out of range, views in both halves, fewer than 2 training views, or fewer than
            num_train_views.
    """
    dataset_name = dataset_name if _is_given(dataset_name) else ""
    named = _named_split(dataset_name)
    train = _parse_views(train_views, "--train_views", num_views)
    test = _parse_views(test_views, "--test_views", num_views)
    if train == ALL and test == ALL:
        raise ConfigError("--train_views and --test_views are both 'all', need disjoint sets; give "
                          "one of them as a list such as 0-5,9")
    if named is not None and (train is None or test is None):
        _check_size(num_views, dataset_name, named)
    train, test = _fill_in(train, test, named, num_views)
    everything = range(num_views)
    if train == ALL:
        train = tuple(i for i in everything if i not in set(test))
    if test == ALL:
        test = tuple(i for i in everything if i not in set(train))
    _check_halves(train, test)
    is_explicit = any(_is_given(text) for text in (train_views, test_views))
    return Split(spread_evenly(train, num_train_views) if num_train_views else train, test,
                 "explicit" if is_explicit else dataset_name or "every8")


def spread_evenly(views: tuple[int, ...], count: int) -> tuple[int, ...]:
    """Return `count` of the views: the first, the last, and others evenly between them.

    Of the seven of the dtu split, 3 are 1, 25, 47; 4 are 1, 17, 33, 47; 5 are 1, 17, 25, 41, 47.

    Raises:
        ConfigError: fewer than 2 are asked for, or more than there are.
    """
    if not MIN_TRAIN_VIEWS <= count <= len(views):
        raise ConfigError(f"--num_train_views is {count}, need {MIN_TRAIN_VIEWS} to {len(views)}, "
                          "as there are so many training views; or 0 for all")
    gaps = count - 1
    return tuple(views[(2 * i * (len(views) - 1) + gaps) // (2 * gaps)] for i in range(count))


def meta_views(num_views: int, dataset_name: str = "", *, train_views: str = "",
               test_views: str = "", num_train_views: int = 0) -> tuple[int, ...]:
    """Return the views of a scene that meta-training uses: all of them, of nlr 16..21.

    Args:
        num_views: views in the scene, which may differ from the named split's.
        dataset_name: 'dtu', 'nlr', 'shapenet' or ''.
        train_views, test_views, num_train_views: as `resolve_split` takes them; what they hold out
            is left out.
    Raises:
        ConfigError: as `resolve_split`, and an nlr scene with fewer views.
    """
    named = _named_split(dataset_name if _is_given(dataset_name) else "")
    if not (_is_given(train_views) or _is_given(test_views)):
        if named is not None and dataset_name == "nlr":
            _check_size(num_views, dataset_name, named)
            train = named.train or ()
            return spread_evenly(train, num_train_views) if num_train_views else train
        train_views = ALL
    return resolve_split(num_views, train_views=train_views, test_views=test_views,
                         num_train_views=num_train_views).train


def _is_given(text: str) -> bool:
    """Return whether a flag was given; config files say None where it was not."""
    return text.strip().lower() not in ("", "none")        # config files say None for 'not given'


def _named_split(dataset_name: str) -> _NamedSplit | None:
    """Return the split of a data set, None without a name; raise ConfigError for an unknown one."""
    if not dataset_name:
        return None
    if dataset_name not in NAMED_SPLITS:
        nearest = difflib.get_close_matches(dataset_name, NAMED_SPLITS, n=1, cutoff=0)[0]
        raise ConfigError(f"--dataset_name is '{dataset_name}', need one of "
                          f"{', '.join(NAMED_SPLITS)}; the nearest is '{nearest}'")
    return NAMED_SPLITS[dataset_name]


def _check_size(num_views: int, dataset_name: str, named: _NamedSplit) -> None:
    """Raise ConfigError where a scene has fewer views than the named split."""
    if num_views < named.num_views:
        raise ConfigError(f"--dataset_name {dataset_name} splits {named.num_views} views, but "
                          f"{num_views} views were found; pass --train_views and --test_views, "
                          "such as --train_views all --test_views 4,12")


def _fill_in(train, test, named: _NamedSplit | None, num_views: int) -> tuple:
    """Return both halves; what was not given is from the named split or the other half."""
    if named is not None:
        named_train = ALL if named.train is None else named.train
        return (named_train if train is None else train), (named.test if test is None else test)
    if train is None and test is None:
        return ALL, tuple(range(DEFAULT_TEST_START, num_views, DEFAULT_TEST_STEP))
    if train is None:
        if test == ALL:
            raise ConfigError("--test_views is 'all' without --train_views, need views to train "
                              "on; pass --train_views, such as 0-5,9")
        return ALL, test
    if test is None:
        return train, (() if train == ALL else ALL)
    return train, test


def _parse_views(text: str, flag: str, num_views: int) -> tuple[int, ...] | str | None:
    """Return the ascending view numbers of '0-5,9', `ALL`, or None where not given."""
    if not _is_given(text):
        return None
    if text.strip().lower() == ALL:
        return ALL
    views: set[int] = set()
    for item in re.split(r"[,\s]+", text.strip().strip("[]").strip(", ")):
        match = _ITEM.fullmatch(item)
        if match is None:
            raise ConfigError(f"{flag} has '{item}', need view numbers and ranges such as 0-5,9, "
                              "or all")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ConfigError(f"{flag} has the range '{item}' that runs backwards, need "
                              f"{last}-{first}")
        if last >= num_views:
            raise ConfigError(f"{flag} has view {last}, but the scene has {num_views} views, "
                              f"numbered from 0; need 0 to {num_views - 1}")
        views.update(range(first, last + 1))
    return tuple(sorted(views))


def _check_halves(train: tuple[int, ...], test: tuple[int, ...]) -> None:
    """Raise ConfigError where the halves share views, or too few are trained on."""
    shared = sorted(set(train) & set(test))
    if shared:
        raise ConfigError(f"--train_views and --test_views share views {_as_text(shared)}, need "
                          "none in both; take them out of one, or give 'all' for the rest")
    if len(train) < MIN_TRAIN_VIEWS:
        raise ConfigError(f"{len(train)} training views, need at least {MIN_TRAIN_VIEWS}, as each "
                          "is drawn from the others; pass more in --train_views or fewer in "
                          "--test_views")


def _as_text(views: list[int]) -> str:
    """Return view numbers for a sentence."""
    return ", ".join(str(view) for view in views)
