import numpy as np
import pytest
import torch
from scipy import stats

from fastaug.augment.rng import GeneratorUniforms, SampleUniforms, philox4x32, sample_uniforms

# The known answers that Random123 publishes for philox4x32-10 (kat_vectors).
KNOWN = [
    ([0, 0, 0, 0], (0, 0), [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, (0xFFFFFFFF, 0xFFFFFFFF), [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        (0xA4093822, 0x299F31D0),
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_philox_gives_the_published_answers(counter: list[int], key: tuple[int, int], expected: list[int]) -> None:
    assert philox4x32(np.array(counter, np.uint64), key).tolist() == expected


def test_numbers_belong_to_samples_not_to_batches() -> None:
    whole = sample_uniforms(7, 3, np.arange(100), "RandomRotation", 5)
    some = np.array([42, 3, 99])
    np.testing.assert_array_equal(sample_uniforms(7, 3, some, "RandomRotation", 5), whole[some])
    np.testing.assert_array_equal(sample_uniforms(7, 3, some, "RandomRotation", 2), whole[some, :2])


@pytest.mark.parametrize("other", [(8, 3, "a"), (7, 4, "a"), (7, 3, "b"), (7 + 2**32, 3, "a"), (-7, 3, "a")])
def test_seed_epoch_and_name_each_change_the_numbers(other: tuple[int, int, str]) -> None:
    seed, epoch, name = other
    indices = np.arange(1000)
    a, b = sample_uniforms(7, 3, indices, "a", 1), sample_uniforms(seed, epoch, indices, name, 1)
    assert abs(np.corrcoef(a[:, 0], b[:, 0])[0, 1]) < 0.1


def test_numbers_are_uniform_and_independent() -> None:
    u = sample_uniforms(0, 0, np.arange(20_000), "x", 6)
    assert u.min() >= 0
    assert u.max() < 1
    assert all(stats.kstest(column, "uniform").pvalue > 1e-4 for column in u.T)
    assert np.abs(np.corrcoef(u.T) - np.eye(6)).max() < 0.04
    assert abs(np.corrcoef(u[:-1, 0], u[1:, 0])[0, 1]) < 0.04


def test_sources_agree_on_shape_and_type() -> None:
    for source in (SampleUniforms(0, 0, [5, 6, 7]), GeneratorUniforms(3, torch.Generator().manual_seed(0))):
        u = source("x", 4)
        assert (source.batch, u.shape, u.dtype) == (3, (3, 4), torch.float64)
    assert SampleUniforms(0, 0, [])("x", 4).shape == (0, 4)


def test_numbers_made_at_once_are_those_asked_for_one_by_one() -> None:
    at_once, counts = SampleUniforms(7, 3, [5, 0, 2**31]), {"a": 2, "b": 9, "c": 0, "a-2": 4}
    at_once.make(counts)
    for name, count in {**counts, "d": 3}.items():
        one = SampleUniforms(7, 3, [5, 0, 2**31])(name, count)
        assert torch.equal(at_once(name, count), one)
        assert one.shape == (3, count)
    assert torch.equal(at_once("b", 3), at_once("b", 9)[:, :3])


def test_each_copy_and_each_view_has_its_own_numbers() -> None:
    rows = np.array([7, 7, 9, 7])
    copied = SampleUniforms(1, 2, rows, np.array([0, 1, 0, 3]))("op", 9)
    plain = SampleUniforms(1, 2, rows)("op", 9)
    assert torch.equal(copied[[0, 2]], plain[[0, 2]])
    assert not (copied[1] == copied[0]).any()
    assert not (copied[3] == copied[1]).any()
    assert torch.equal(SampleUniforms(1, 2, [7], np.array([3]))("op", 9)[0], copied[3])
    seen, first = SampleUniforms(1, 2, rows, view=2), SampleUniforms(1, 2, rows, view=0)
    seen.make({"op": 9, "other": 2})
    assert torch.equal(first("op", 9), plain)
    assert not (seen("op", 9) == plain).any()
    assert torch.equal(seen("op", 9), SampleUniforms(1, 2, rows, view=2)("op", 9))
    assert not (SampleUniforms(1, 2, rows, view=1)("op", 9) == seen("op", 9)).any()
