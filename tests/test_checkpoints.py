"""Checkpoints: what is saved comes back to the bit, and what is damaged or foreign is refused and kept."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bbinn_jax as bb
from experiments.common import checkpoints
from tests.commands import content_of
from tests.trees import assert_equal_to_the_bit


def make_state(seed=0):
    """Every dtype and every odd number that a state may hold."""
    rng = np.random.default_rng(seed)
    natural = {"Dense_0": {"kernel": jnp.asarray(rng.normal(size=(300, 200)), jnp.float32), "empty": None}}
    real = {"scale": jnp.array([np.nan, np.inf, -0.0, 1e-40], jnp.float32), "half": jnp.ones(3, jnp.bfloat16)}
    tx = optax.partition({"binary": bb.bayesbinn(1e-3, 50, momentum=0.9), "real": optax.adam(1e-2)}, ("binary", "real"))
    return (natural, real), tx.init((natural, real)), jnp.asarray(seed, jnp.int32), jnp.array([True, False])


STATE = make_state()
LINES = '{"epoch": 1}\n{"epoch": 2}\n'


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    checkpoints.save(folder, 7, STATE, 12.5, "me", LINES)
    return folder


def test_state_comes_back_to_the_bit(saved):
    assert checkpoints.latest(saved) == 7
    like = jax.tree.map(jnp.zeros_like, STATE)
    state, seconds, lines = checkpoints.restore(saved, 7, like, "me")
    assert_equal_to_the_bit(state, STATE)
    assert (seconds, lines) == (12.5, LINES)


def test_checkpoint_from_before_metrics_were_kept_is_read(tmp_path):
    """As they were written then: no text, and a digest of the rest."""
    leaves = {name: np.asarray(leaf) for name, leaf in checkpoints._named_leaves(STATE)}
    content = {"state": leaves, "seconds": np.float64(1.5), "digest": checkpoints._digest(leaves, 1.5, "me")}
    checkpoints._checkpointer().save((tmp_path / "checkpoints" / "3").resolve(), content)
    state, seconds, lines = checkpoints.restore(tmp_path, 3, STATE, "me")
    assert_equal_to_the_bit(state, STATE)
    assert (seconds, lines) == (1.5, None)


def test_restored_state_may_be_given_away(saved):
    """Training donates its state: the memory must be JAX's own."""
    state, *_ = checkpoints.restore(saved, 7, STATE, "me")
    leaves = jax.jit(lambda x: jax.tree.map(lambda leaf: leaf, x), donate_argnums=0)(state)
    assert_equal_to_the_bit(leaves, STATE)


def test_newest_stays_and_half_written_ones_go(tmp_path):
    for epoch in (1, 2, 10):
        checkpoints.save(tmp_path, epoch, STATE, 0.0, "me")
        (tmp_path / "checkpoints" / f"{epoch + 1}.orbax-checkpoint-tmp").mkdir()
    assert checkpoints.latest(tmp_path) == 10
    checkpoints.save(tmp_path, 11, STATE, 0.0, "me")  # the name of a half-written one
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["11"]


def test_no_checkpoint_is_none(tmp_path):
    assert checkpoints.latest(tmp_path) is None
    (tmp_path / "checkpoints" / "3.orbax-checkpoint-tmp").mkdir(parents=True)
    assert checkpoints.latest(tmp_path) is None


def damages():
    """What may happen to any one file: half of it lost, all of it lost, a byte changed, the file gone."""

    def half(path):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    def empty(path):
        path.write_bytes(b"")

    def change(path):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0x10
        path.write_bytes(content)

    return [half, empty, change, lambda path: path.unlink()]


@pytest.mark.parametrize("damage", damages(), ids=["half", "empty", "a byte", "gone"])
def test_damaged_file_is_refused_or_harmless(saved, tmp_path, damage):
    """No damage to any file gives another state: it is refused in one line, or the state is the true one."""
    names = list(content_of(saved))
    refused = 0
    for i, name in enumerate(names):
        folder = tmp_path / str(i)
        shutil.copytree(saved, folder)
        damage(folder / name)
        before = content_of(folder)
        try:
            state, seconds, lines = checkpoints.restore(folder, 7, STATE, "me")
        except ValueError as error:
            refused += 1
            assert str(folder) in str(error)
            assert "\n" not in str(error)
        else:
            assert_equal_to_the_bit(state, STATE)
            assert (seconds, lines) == (12.5, LINES)
        assert content_of(folder) == before
    assert refused >= 2


def test_foreign_checkpoints_are_refused(saved, tmp_path):
    with pytest.raises(ValueError, match="of another run"):
        checkpoints.restore(saved, 7, STATE, "you")
    other = (*STATE[:3], jnp.zeros(3))
    with pytest.raises(ValueError, match=r"of another run: it has bool\(2,\) at .* and this one float32\(3,\)"):
        checkpoints.restore(saved, 7, other, "me")
    (tmp_path / "checkpoints" / "4").mkdir(parents=True)
    (tmp_path / "checkpoints" / "4" / "model.pt").write_text("torch")
    with pytest.raises(ValueError, match="damaged"):
        checkpoints.restore(tmp_path, 4, STATE, "me")


def test_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    class FullDisk:
        def save(self, path, content):
            path.with_name(path.name + ".orbax-checkpoint-tmp").mkdir()
            raise ValueError("OUT_OF_RANGE: File too large\nand more")

    checkpoints.save(tmp_path, 3, STATE, 1.5, "me")
    monkeypatch.setattr(checkpoints, "_checkpointer", FullDisk)
    with pytest.raises(OSError, match=r"checkpoint .*4 cannot be written: OUT_OF_RANGE: File too large$"):
        checkpoints.save(tmp_path, 4, STATE, 2.5, "me")
    monkeypatch.undo()
    assert checkpoints.latest(tmp_path) == 3
    assert_equal_to_the_bit(checkpoints.restore(tmp_path, 3, STATE, "me")[0], STATE)
