"""The restricted unpickler: admits what scenes and weights hold, refuses all else by name."""
from __future__ import annotations

import collections
import io
import os
import pickle

import numpy as np
import pytest

from utils.errors import SceneError, UserError
from utils.files.pickles import MAX_DEPTH, load_pickled_npy, load_restricted_pickle

CONTENT = {
    "view": np.arange(16.0).reshape(4, 4), "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "big_endian": np.arange(3, dtype=">f4"), "flags": np.array([True, False]),
    "words": np.array(["a", "bcd"]), "empty": np.empty((0, 3), np.float32),
    "scalar": np.float64(2.5), "resolution": [24, 16], "name": "scene", "none": None,
    "pair": (1, 2.5), "nested": {"deep": np.float32(1)}, "raw": b"\x00\xff", "truth": True,
    "objects": np.array([{"a": 1}, "text"], dtype=object)}


def assert_same(found, expected):
    """Same types, dtypes and values, all the way down."""
    assert type(found) is type(expected)
    if isinstance(expected, np.ndarray):
        assert found.dtype == expected.dtype and found.shape == expected.shape
        for a, b in zip(found.ravel(), expected.ravel(), strict=True):
            assert a == b
    elif isinstance(expected, dict):
        assert set(found) == set(expected)
        for key in expected:
            assert_same(found[key], expected[key])
    else:
        assert found == expected


class Evil:
    """Runs a harmless command when an ordinary unpickler reads it."""

    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol_gives_back_what_was_saved(protocol):
    assert_same(load_restricted_pickle(io.BytesIO(pickle.dumps(CONTENT, protocol))), CONTENT)


@pytest.mark.parametrize("protocol", [2, 4])
def test_names_of_old_and_new_numpy_are_both_read(protocol):
    data = pickle.dumps({"a": np.arange(3), "s": np.float32(4)}, protocol)
    if protocol == 4:
        assert data[2:3] == b"\x95"
        data = data[:2] + data[11:]                      # without its frame, whose length changes
    written = b"numpy._core.multiarray" if b"numpy._core" in data else b"numpy.core.multiarray"
    for name in (b"numpy._core.multiarray", b"numpy.core.multiarray"):
        if protocol == 4:                                # a string after its length; else a line
            renamed = data.replace(b"\x8c" + bytes([len(written)]) + written,
                                   b"\x8c" + bytes([len(name)]) + name)
        else:
            renamed = data.replace(b"c" + written, b"c" + name)
        assert name in renamed
        found = load_restricted_pickle(io.BytesIO(renamed))
        assert found["a"].tolist() == [0, 1, 2] and found["s"] == 4


def test_npy_of_a_dict_of_an_array_and_bare_pickle(tmp_path):
    np.save(tmp_path / "dict.npy", np.array(CONTENT, dtype=object))
    np.save(tmp_path / "plain.npy", np.asfortranarray(np.arange(6.0).reshape(2, 3)))
    (tmp_path / "bare.npy").write_bytes(pickle.dumps(CONTENT))
    assert_same(load_pickled_npy(tmp_path / "dict.npy"), CONTENT)
    assert_same(load_pickled_npy(tmp_path / "bare.npy"), CONTENT)
    plain = load_pickled_npy(tmp_path / "plain.npy")
    assert plain.tolist() == [[0, 1, 2], [3, 4, 5]] and plain.flags.writeable


@pytest.mark.parametrize("bad, name", [
    (Evil(os.system, "true"), "posix.system"),
    (Evil(eval, "1"), "builtins.eval"),
    (Evil(getattr, "a", "upper"), "builtins.getattr"),
    (collections.OrderedDict(a=1), "collections.OrderedDict"),
    (np.float64, "numpy.float64"),
    ({1, 2}, "set"),
    (np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]), "array"),
    (np.datetime64("2020-01-01"), "array of type"),
])
def test_anything_else_is_refused_by_global_and_file(tmp_path, bad, name):
    path = tmp_path / "meta.npy"
    np.save(path, np.array({"view": np.eye(4), "more": bad}, dtype=object))
    with pytest.raises(SceneError) as caught:
        load_pickled_npy(path, error=SceneError)
    assert name in str(caught.value) and "meta.npy" in str(caught.value)


def test_refused_code_does_not_run(tmp_path):
    mark = tmp_path / "ran"
    (tmp_path / "evil.npy").write_bytes(pickle.dumps(Evil(os.mkdir, str(mark))))
    with pytest.raises(UserError, match="mkdir"):
        load_pickled_npy(tmp_path / "evil.npy")
    assert not mark.exists()
    pickle.loads((tmp_path / "evil.npy").read_bytes())   # an ordinary one does run it
    assert mark.exists()


@pytest.mark.parametrize("program", [
    b"cnumpy\nndarray\n(\x8a\x05\x00\x00\x00\x00\x40tR.",              # ndarray(2**38)
    b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(U\x0bV2000000000tRtR.",
    b"cnumpy\ndtype\n}U\x0b__defaults__K\x01sb.",                      # BUILD on a function
    b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x03\x00\x00\x00zlitR.",
    b"]r\xff\xff\xff\x7f.",                                            # memo number 2**31 - 1
    b"]q\x00h\x00a.",                                                  # a list that holds itself
    b"]" * (MAX_DEPTH + 2) + b"a" * (MAX_DEPTH + 1) + b".",
    b"I1\nQ.",                                                         # persistent id
    b"\x82\x01.",                                                      # extension registry
])
def test_hand_written_attacks_end_in_an_error_at_once(program):
    with pytest.raises(UserError):
        load_restricted_pickle(io.BytesIO(program), "attack.pkl")


def shared(levels):
    """Lists of two references to one list each: 2**levels leaves in a few bytes."""
    part = [0]
    for _ in range(levels):
        part = [part, part]
    return part


def test_shared_parts_stay_shared():
    found = load_restricted_pickle(io.BytesIO(pickle.dumps(shared(10))))
    assert found[0] is found[1]


@pytest.mark.parametrize("bomb", [shared(25), {"view": [shared(25)]}, ["x" * 10**5] * 10**4,
                                  [np.zeros(10**4)] * 10**4])
def test_shared_parts_that_would_multiply_are_refused(bomb):
    with pytest.raises(UserError, match="multiply"):
        load_restricted_pickle(io.BytesIO(pickle.dumps(bomb)), "bomb.pkl")


@pytest.mark.parametrize("key", ["hash", 2**61 - 1, 1.5, (1, 2)])
def test_keys_whose_hash_takes_long_or_collides_are_refused(key):
    if key == "hash":                                  # 2**60 steps to hash
        key = ()
        for _ in range(60):
            key = (key, key)
        data = pickle.dumps(key)[:-1] + b"K\x01s."
        data = data[:2] + b"}" + data[2:] if data[2:3] != b"\x95" else \
            data[:2] + b"}" + data[11:]
    else:
        data = pickle.dumps({key: 1})
    with pytest.raises(UserError, match="as key"):
        load_restricted_pickle(io.BytesIO(data), "keys.pkl")


@pytest.mark.parametrize("cut", [3, 9, 40, 140, -1])
def test_truncated_files_are_damaged_at_any_length(tmp_path, cut):
    path = tmp_path / "meta.npy"
    np.save(path, np.array(CONTENT, dtype=object))
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(UserError, match="meta.npy.*damaged or truncated"):
        load_pickled_npy(path)


def test_plain_arrays_that_lie_about_their_size_are_damaged(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.zeros(10))
    data = path.read_bytes()
    path.write_bytes(data.replace(b"(10,), }        ", b"(1000000000,), }"))
    assert path.read_bytes() != data
    with pytest.raises(UserError, match="damaged"):
        load_pickled_npy(path)
    np.save(path, np.zeros(10))
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(UserError, match="damaged"):
        load_pickled_npy(path)


def test_size_is_bounded_and_absence_named(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.zeros(1000))
    with pytest.raises(UserError, match="more than 100 bytes"):
        load_pickled_npy(path, max_bytes=100)
    with pytest.raises(UserError, match="nothing.npy.*cannot be read"):
        load_pickled_npy(tmp_path / "nothing.npy")
