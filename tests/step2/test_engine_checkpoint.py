"""Weights read by slices from every kind of folder, and what is wrong with one named."""

import json
import shutil

import pytest
import torch
from engine.checkpoint import open_checkpoint
from engine.engine import Engine, EngineSettings, SamplingSettings
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from step2.tiny_models import write_meta_folder
from user_error import UserError

SHARDS = {"model-00001-of-00002.safetensors": False, "model-00002-of-00002.safetensors": True}
QUERY = "model.layers.1.self_attn.q_proj.weight"


@pytest.fixture
def folder(tiny_model, tmp_path):
    """A copy of a LLaMA's folder to spoil."""
    return shutil.copytree(tiny_model("llama2"), tmp_path / "model")


def shard(folder, tensors):
    """Replaces model.safetensors by two files and an index."""
    (folder / "model.safetensors").unlink(missing_ok=True)
    weight_map = {}
    for file, is_late in SHARDS.items():
        part = {name: t for name, t in tensors.items() if ("layers.1" in name) == is_late}
        save_file(part, folder / file)
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def load(folder):
    sampling = SamplingSettings(max_new_tokens=4)
    settings = {"dtype": "float32", "device": "cpu", "max_own_tokens": 8, "slots": 1}
    return Engine(EngineSettings(folder, "# Rules\nUser:", sampling=sampling, **settings))


@pytest.mark.parametrize("kind", ["whole", "sharded", "meta in 1", "meta in 2", "meta 3 in 2"])
def test_any_slice_of_any_kind_of_folder(folder, tmp_path, kind):
    whole = load_file(folder / "model.safetensors")
    if kind == "sharded":
        shard(folder, whole)
    if kind.startswith("meta"):
        axis = 0 if "3" in kind else 1
        folder = write_meta_folder(folder, tmp_path / "meta", int(kind[-1]), axis)
    checkpoint = open_checkpoint(folder)
    assert checkpoint.names() - {"rope.freqs"} == whole.keys()
    for name, tensor in whole.items():
        assert checkpoint.shape(name) == tensor.shape
        assert torch.equal(checkpoint.read(name), tensor), name
        if tensor.dim() == 1:
            assert torch.equal(checkpoint.read(name, slice(3, 9)), tensor[3:9])
            continue
        for rows, columns in ((slice(8, 32), slice(None)), (slice(None), slice(16, 40))):
            assert torch.equal(checkpoint.read(name, rows, columns), tensor[rows, columns]), name
        end = tensor.shape[0]
        assert checkpoint.read(name, slice(end, end)).shape == (0, tensor.shape[1])


def test_both_kinds_of_folder_beside_each_other_are_read_as_hugging_faces(folder):
    (folder / "params.json").write_text("{}")
    assert QUERY in open_checkpoint(folder).names()
    load(folder)


def test_what_older_folders_write_out_is_passed_over(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(tensors, folder / "model.safetensors")
    load(folder)


def test_a_tied_head_may_be_written_out_too(tiny_model, tmp_path):
    folder = shutil.copytree(tiny_model("llama3"), tmp_path / "tied")
    tensors = load_file(folder / "model.safetensors")
    assert "lm_head.weight" not in tensors
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, folder / "model.safetensors")
    load(folder)


def spoil(name, change):
    """Applies a change to the tensors of model.safetensors, under this name."""

    def apply(folder):
        tensors = load_file(folder / "model.safetensors")
        change(tensors, name)
        save_file(tensors, folder / "model.safetensors")

    return apply


def remove(tensors, name):
    del tensors[name]


def widen(tensors, name):
    tensors[name] = torch.zeros(50, 48)


@pytest.mark.parametrize(
    ("apply", "message"),
    [
        (spoil(QUERY, remove), rf"the tensor {QUERY} is missing"),
        (spoil("lm_head.weight", remove), r"the tensor lm_head.weight is missing"),
        (spoil("model.norm.weight", remove), r"the tensor model.norm.weight is missing"),
        (spoil(QUERY, widen), rf"{QUERY} has shape \[50, 48\]; .* asks for \[48, 48\]"),
        (spoil("model.layers.7.extra.weight", widen), r"1 tensors .* first model.layers.7.extra"),
        (spoil("model.layers.0.self_attn.q_proj.bias", widen), r"have no place .*q_proj.bias"),
    ],
)
def test_a_tensor_that_is_missing_misshapen_or_unused_is_named(folder, apply, message):
    apply(folder)
    with pytest.raises(UserError, match=message):
        load(folder)


def test_a_missing_file_of_several_is_named(folder):
    shard(folder, load_file(folder / "model.safetensors"))
    (folder / list(SHARDS)[1]).unlink()
    with pytest.raises(UserError, match=r"model-00002-of-00002\.safetensors does not exist"):
        load(folder)


def test_a_file_that_was_cut_is_named(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"model\.safetensors is damaged"):
        load(folder)


def test_a_git_lfs_pointer_in_place_of_weights_is_told_as_such(folder):
    """Pins "header too large" for what a clone without Git LFS has."""
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"
    (folder / "model.safetensors").write_text(pointer)
    with pytest.raises(UserError, match=r"model\.safetensors is a Git LFS pointer, .*lfs pull"):
        load(folder)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(pointer)
    with pytest.raises(UserError, match=r"index\.json is a Git LFS pointer, .*lfs pull"):
        load(folder)


def test_a_folder_without_safetensors_is_named(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"must lie in .* as safetensors"):
        load(folder)


def test_damaged_meta_folders_are_named(folder, tmp_path):
    meta = write_meta_folder(folder, tmp_path / "meta", 2)
    (meta / "consolidated.01.pth").unlink()
    with pytest.raises(UserError, match=r"the tensor .* has shape .* asks for"):
        load(meta)
    whole = (meta / "consolidated.00.pth").read_bytes()
    for damaged in (b"", b"no archive", whole[: len(whole) // 2]):
        (meta / "consolidated.00.pth").write_bytes(damaged)
        with pytest.raises(UserError, match=r"consolidated\.00\.pth is damaged"):
            load(meta)
    (meta / "consolidated.00.pth").unlink()
    with pytest.raises(UserError, match=r"no consolidated\.\*\.pth"):
        load(meta)


def test_a_rank_reads_its_own_slices_only(folder, monkeypatch):
    """What a rank of eight reads of the matrices comes to about an eighth of them."""
    from engine import checkpoint

    read = []

    class Counting:
        def __init__(self, opened, name):
            self.slice = opened.get_slice(name)
            self.get_shape = self.slice.get_shape

        def __getitem__(self, place):
            tensor = self.slice[place]
            read.append(tensor.numel())
            return tensor

    class CountingFile:
        def __init__(self, *arguments, **named):
            self.opened = safe_open(*arguments, **named)
            self.keys = self.opened.keys

        def get_slice(self, name):
            return Counting(self.opened, name)

    monkeypatch.setattr(checkpoint, "safe_open", CountingFile)
    opened = checkpoint.open_checkpoint(folder)
    part = opened.read(QUERY, slice(8, 16))
    assert part.shape == (8, 48)
    assert read == [8 * 48]
