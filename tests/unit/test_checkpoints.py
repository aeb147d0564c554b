"""Checkpoints: what comes back, and files that are refused."""

import errno
import json
import pickle

import numpy as np
import pytest
import torch
from examples import tiny_model
from runs import Evil, assert_same_weights, break_disk
from safetensors.torch import save_file

from fusion_lib.engine.checkpoints import load_checkpoint, save_checkpoint
from fusion_lib.models import encoders


def test_checkpoint_comes_back_as_it_was(tmp_path):
    model = tiny_model(4, outputs={"semantic": 6, "region": 3})
    save_checkpoint(
        model, tmp_path / "a.safetensors", decoding={"threshold": 0.6}, miou=0.75, names=["x"]
    )
    again, facts = load_checkpoint(str(tmp_path / "a.safetensors"))
    assert facts == {"decoding": {"threshold": 0.6}, "miou": 0.75, "names": ["x"]}
    assert again.config == model.config and not again.training
    assert_same_weights(again, model)
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_checkpoint_of_a_model_in_another_memory_layout(tmp_path):
    model = tiny_model(4).to(memory_format=torch.channels_last)
    save_checkpoint(model, tmp_path / "a.safetensors")
    assert_same_weights(load_checkpoint(tmp_path / "a.safetensors")[0], model)


def test_checkpoint_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.safetensors"):
        load_checkpoint(tmp_path / "nowhere.safetensors")


def refused(path, message) -> None:
    before = path.read_bytes()
    with pytest.raises(ValueError, match=message):
        load_checkpoint(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.01, 0.5, 0.999])
def test_checkpoint_truncated(tmp_path, share):
    path = tmp_path / "a.safetensors"
    save_checkpoint(tiny_model(), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refused(path, r"a.safetensors is no whole safetensors file .*must be fetched or trained again")


def test_checkpoint_that_is_a_pickle_is_never_run(tmp_path):
    path = tmp_path / "a.safetensors"
    for write in (
        lambda evil: path.write_bytes(pickle.dumps(evil)),
        lambda evil: torch.save(evil, path),
    ):
        write(Evil(tmp_path / "evil"))
        refused(path, "a.safetensors is no whole safetensors file .*pickles are refused")
        assert not (tmp_path / "evil").exists()


def test_checkpoint_without_configuration(tmp_path):
    save_file(tiny_model().state_dict(), tmp_path / "a.safetensors")
    refused(tmp_path / "a.safetensors", "a.safetensors has no 'config' .*save_checkpoint")


@pytest.mark.parametrize(
    "change",
    [
        {"width": 8},
        {"outputs": {"semantic": 4, "region": 3}},
        {"outputs": {"semantic": 3}},
        {"outputs": {}},
        {"encoder": "resnet"},
        {"depth": 5},
    ],
)
def test_checkpoint_of_another_configuration(tmp_path, change):
    model = tiny_model()
    config = json.dumps({**model.config, **change})
    save_file(model.state_dict(), tmp_path / "a.safetensors", metadata={"config": config})
    refused(
        tmp_path / "a.safetensors", "(?s)a.safetensors: its weights do not fit its configuration"
    )


def test_checkpoint_whose_configuration_is_no_json(tmp_path):
    save_file(tiny_model().state_dict(), tmp_path / "a.safetensors", metadata={"config": "{"})
    refused(tmp_path / "a.safetensors", "a.safetensors: its weights do not fit its configuration")


@pytest.mark.parametrize("how", ["full", "read-only", "renaming refused"])
def test_checkpoint_on_a_bad_disk_leaves_the_old_one_whole(tmp_path, monkeypatch, how):
    path = tmp_path / "model.safetensors"
    save_checkpoint(tiny_model(1), path, note="old")
    with monkeypatch.context() as broken:
        says = break_disk(broken, how)
        with pytest.raises(
            OSError, match=rf"cannot write model.safetensors \({says}\); what was there before"
        ) as caught:
            save_checkpoint(tiny_model(2), path, note="new")
        assert caught.value.errno in (errno.ENOSPC, errno.EROFS)
    model, facts = load_checkpoint(path)
    assert facts == {"note": "old"}
    assert_same_weights(model, tiny_model(1))
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_checkpoint_beyond_the_size_limit_of_the_system(tmp_path):
    """No pretence: the operating system itself ends the write half-way."""
    resource = pytest.importorskip("resource", reason="only Unix has limits on the size of files")
    path = tmp_path / "model.safetensors"
    save_checkpoint(tiny_model(1), path)
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(OSError, match="cannot write model.safetensors"):
            save_checkpoint(tiny_model(2), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == [
        "model.safetensors"
    ]


# --- what is not believed ----------------------------------------------------------------------


def test_flipped_bits_in_the_weights_are_found(tmp_path):
    path = tmp_path / "a.safetensors"
    save_checkpoint(tiny_model(), path)
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")  # where the header ends
    for place in np.random.default_rng(0).integers(start, len(content), 20):
        damaged = bytearray(content)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        refused(path, "a.safetensors: its weights are damaged; fetch or train it again")


def stored(path, state=None, **changed) -> None:
    """A file as `save_checkpoint` writes it, with other metadata, and without a hash."""
    model = tiny_model()
    config = json.dumps(model.config)
    state = model.state_dict() if state is None else state
    save_file(state, path, metadata={"config": config, "facts": "{}", "version": "1"} | changed)


def test_weights_that_are_not_finite_are_refused(tmp_path):
    state = tiny_model().state_dict()
    state["heads.region.bias"][1] = float("nan")
    stored(tmp_path / "a.safetensors", state)
    refused(tmp_path / "a.safetensors", r"its weights \['heads.region.bias'\] are not finite")


def test_file_without_a_hash_is_read_as_before(tmp_path):
    stored(tmp_path / "a.safetensors")
    assert_same_weights(load_checkpoint(tmp_path / "a.safetensors")[0], tiny_model())


@pytest.mark.parametrize(
    "change, says",
    [
        ({"pretrained": True}, "pretrained"),
        ({"frozen_stages": 2}, "frozen_stages"),
        ({"width": "4"}, "width is '4'; expected"),
        ({"width": True}, "width is True; expected"),
        ({"width": 4.0}, "width is 4.0; expected"),
        ({"outputs": ["semantic"]}, "outputs is .*; expected {task"),
        ({"outputs": {"semantic": "3", "region": 3}}, "outputs is .*as a whole number"),
        ({"sharing": None}, "sharing is None; expected"),
        ({"encoder": ["small"]}, "encoder is .*; expected"),
    ],
)
def test_configuration_of_other_names_or_types(tmp_path, monkeypatch, change, says):
    monkeypatch.setattr(encoders, "backbone", None)  # nothing is built, and nothing downloaded
    stored(tmp_path / "a.safetensors", config=json.dumps(tiny_model().config | change))
    refused(tmp_path / "a.safetensors", f"(?s)a.safetensors: its weights do not fit .*{says}")


def test_pretrained_weights_are_not_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(encoders, "backbone", None)
    config = {"outputs": {"semantic": 3}, "encoder": "resnet18", "pretrained": True}
    stored(tmp_path / "a.safetensors", config=json.dumps(config))
    refused(tmp_path / "a.safetensors", "do not fit its configuration")


@pytest.mark.parametrize(
    "change, says",
    [
        ({"width": 100_000}, "size mismatch"),
        ({"width": 100_000, "outputs": {"semantic": 254}}, "size mismatch"),
        ({"outputs": {"semantic": 10**12}}, "at most 254"),
    ],
)
def test_nothing_of_a_wrong_size_is_allocated(tmp_path, change, says):
    """A width of 100,000 asks for terabytes; the shapes are compared without them."""
    stored(tmp_path / "a.safetensors", config=json.dumps(tiny_model().config | change))
    refused(tmp_path / "a.safetensors", f"(?s)do not fit its configuration .*{says}")


@pytest.mark.parametrize(
    "metadata", [{"version": "x"}, {"version": "1.5"}, {"facts": "[1]"}, {"facts": "{"}]
)
def test_version_and_facts_of_a_wrong_type(tmp_path, metadata):
    stored(tmp_path / "a.safetensors", **metadata)
    refused(tmp_path / "a.safetensors", "a.safetensors")


@pytest.mark.parametrize("config", ["[1]", "3", "null"])
def test_configuration_that_is_no_mapping(tmp_path, config):
    stored(tmp_path / "a.safetensors", config=config)
    refused(tmp_path / "a.safetensors", "its weights do not fit its configuration")


@pytest.mark.parametrize("old, new", [(b"0.75", b"0.95"), (b"small", b"Small")])
def test_a_flip_in_facts_or_configuration_is_noticed(tmp_path, old, new):
    path = tmp_path / "a.safetensors"
    save_checkpoint(tiny_model(), path, miou=0.75)
    content = path.read_bytes()
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, new))
    refused(path, "a.safetensors: its facts are damaged; fetch or train it again")


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    model = tiny_model()
    model.heads["semantic"].bias.data[1] = torch.nan
    with pytest.raises(ValueError, match=r"model: its weights \['heads.semantic.bias'\] are not"):
        save_checkpoint(model, tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())
