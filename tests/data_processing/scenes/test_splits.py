"""Named splits, lists and ranges, and every refusal."""
from __future__ import annotations

import pytest

from data_processing.scenes.splits import Split, resolve_split, spread_evenly
from utils.errors import ConfigError

DTU_TRAIN, DTU_TEST = (1, 9, 17, 25, 33, 41, 47), (12, 32, 40)


def test_named_splits_are_the_papers():
    assert resolve_split(49, "dtu") == Split(DTU_TRAIN, DTU_TEST, "dtu")
    assert resolve_split(22, "nlr") == Split((16, 17, 18, 19, 20, 21), (), "nlr")
    shapenet = resolve_split(24, "shapenet")
    assert shapenet.test == (7, 16, 23)
    assert shapenet.train == tuple(i for i in range(24) if i not in (7, 16, 23))


def test_all_is_what_the_other_half_leaves():
    split = resolve_split(49, "dtu", test_views="all")
    assert split.train == DTU_TRAIN and len(split.test) == 42
    assert not set(split.train) & set(split.test)
    split = resolve_split(49, "dtu", train_views="all")
    assert split.test == DTU_TEST and len(split.train) == 46
    assert resolve_split(22, "nlr", test_views="all").test == tuple(range(16))
    assert resolve_split(6, train_views="all") == Split(tuple(range(6)), (), "explicit")


@pytest.mark.parametrize("text", ["0-2,5", "5, 0-2", "0 1 2 5", "[0,1,2,5]", "0-1,1-2,5,5"])
def test_lists_and_ranges(text):
    split = resolve_split(8, train_views=text, test_views="6-7")
    assert split == Split((0, 1, 2, 5), (6, 7), "explicit")


def test_one_list_alone_leaves_the_rest_to_the_other_half():
    assert resolve_split(5, train_views="0,2").test == (1, 3, 4)
    assert resolve_split(5, test_views="0,2").train == (1, 3, 4)


def test_lists_override_the_named_halves_one_by_one():
    assert resolve_split(49, "dtu", train_views="0-5") == Split(tuple(range(6)), DTU_TEST,
                                                                "explicit")
    assert resolve_split(49, "dtu", test_views="0,2").train == DTU_TRAIN
    assert resolve_split(9, "dtu", train_views="0-5", test_views="6").test == (6,)


def test_without_name_every_eighth_view_is_held_out():
    split = resolve_split(21)
    assert split.test == (4, 12, 20) and len(split.train) == 18 and split.name == "every8"
    assert resolve_split(3) == Split((0, 1, 2), (), "every8")
    assert resolve_split(21, "None", train_views="None", test_views="None") == split


@pytest.mark.parametrize("count, expected", [
    (2, (1, 47)), (3, (1, 25, 47)), (4, (1, 17, 33, 47)), (5, (1, 17, 25, 41, 47)),
    (6, (1, 9, 17, 33, 41, 47)), (7, DTU_TRAIN)])
def test_fewer_training_views_are_spread_and_the_held_out_stay(count, expected):
    assert resolve_split(49, "dtu", num_train_views=count) == Split(expected, DTU_TEST, "dtu")
    rest = resolve_split(49, "dtu", test_views="all", num_train_views=count)
    assert rest.train == expected and not set(rest.test) & set(DTU_TRAIN)


@pytest.mark.parametrize("num_views", [2, 3, 10, 31])
def test_spread_views_are_distinct_and_reach_both_ends(num_views):
    for count in range(2, num_views + 1):
        chosen = spread_evenly(tuple(range(num_views)), count)
        gaps = [b - a for a, b in zip(chosen, chosen[1:])]
        assert len(chosen) == count and (chosen[0], chosen[-1]) == (0, num_views - 1)
        assert min(gaps) > 0 and max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize("num_views, name, flags, words", [
    (21, "dtu", {}, "21 views were found.*--train_views"),
    (21, "dtuu", {}, "nearest is 'dtu'"),
    (21, "", {"train_views": "0-21"}, "--train_views has view 21.*21 views.*0 to 20"),
    (21, "", {"test_views": "99999999"}, "--test_views has view 99999999"),
    (21, "", {"train_views": "5-3"}, "backwards"),
    (21, "", {"train_views": "-1"}, "has '-1'"),
    (21, "", {"train_views": "1,x"}, "has 'x'"),
    (21, "", {"train_views": ","}, "has ''"),
    (21, "", {"train_views": "1.5"}, "has '1.5'"),
    (21, "", {"train_views": "0-5", "test_views": "5-8"}, "share views 5"),
    (49, "dtu", {"test_views": "1,9"}, "share views 1, 9"),
    (21, "", {"train_views": "3"}, "1 training views, need at least 2"),
    (21, "", {"test_views": "0-20"}, "0 training views"),
    (21, "", {"train_views": "all", "test_views": "all"}, "both 'all'"),
    (21, "", {"test_views": "all"}, "without --train_views"),
    (49, "dtu", {"num_train_views": 8}, "--num_train_views is 8, need 2 to 7"),
    (49, "dtu", {"num_train_views": 1}, "--num_train_views is 1, need 2 to 7"),
])
def test_bad_splits_are_refused(num_views, name, flags, words):
    with pytest.raises(ConfigError, match=words):
        resolve_split(num_views, name, **flags)
