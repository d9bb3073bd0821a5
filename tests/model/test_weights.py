"""Weight files are read without running code, and refused by name when they do not fit."""

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from feclip.model.weights import check_tensors, read_weights, tensor_digest

STATE = {"a": torch.ones(2), "b": torch.arange(3.0)}


def assert_same(got: dict[str, torch.Tensor]) -> None:
    assert got.keys() == STATE.keys()
    assert all(torch.equal(got[name], STATE[name]) for name in STATE)


def test_safetensors_and_torch_files_read_alike(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "w.safetensors")
    torch.save(STATE, tmp_path / "w.pt")
    torch.save({"state_dict": {f"module.{name}": value for name, value in STATE.items()}}, tmp_path / "trained.pt")
    for name in ("w.safetensors", "w.pt", "trained.pt"):
        assert_same(read_weights(tmp_path / name))


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_a_torchscript_archive_is_refused_with_the_way_out(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.trace(torch.nn.Linear(1, 1), torch.zeros(1, 1)), tmp_path / "ViT-B-32.pt")
    with pytest.raises(
        ValueError, match=r"TorchScript archive \(OpenAI's original format\).*convert .* to safetensors"
    ):
        read_weights(tmp_path / "ViT-B-32.pt")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")
def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    marker = tmp_path / "ran"

    class Payload:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (marker,)

    torch.save({"a": Payload()}, tmp_path / "w.pt")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(Payload()))
    for name in ("w.pt", "plain.pkl"):
        with pytest.raises(ValueError, match="cannot be read as safetensors or as tensors saved by torch") as caught:
            read_weights(tmp_path / name)
        assert "\n" not in str(caught.value)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
@pytest.mark.parametrize("content", [b"", b"no weights at all", b"PK\x03\x04 broken"])
def test_garbage_is_one_line_that_names_the_file(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"Weight file .*{name}") as caught:
        read_weights(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("content", "said"), [({}, "an empty dict"), ([1], "a list"), ({"epoch": 3}, "'epoch': int")])
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: object, said: str) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(ValueError, match=f"must hold a dictionary of tensors by name, got {said}"):
        read_weights(tmp_path / "w.pt")


def test_every_kind_of_difference_is_named() -> None:
    state = {"b": torch.zeros(4), "c": torch.zeros(1), "d": torch.tensor([torch.nan])}
    with pytest.raises(ValueError, match="file does not fit") as caught:
        check_tensors(STATE | {"d": torch.zeros(1)}, state, source="file")
    assert str(caught.value) == (
        "file does not fit: missing a; unknown c; reshaped b (4,), expected (3,); non-finite d."
    )


def test_a_long_list_of_names_is_shortened() -> None:
    expected = {f"t{index}": torch.zeros(1) for index in range(9)}
    with pytest.raises(ValueError, match="missing t0, t1, t2, t3, t4, and 4 more"):
        check_tensors(expected, {}, source="file")


def test_the_digest_does_not_depend_on_order_or_memory_layout() -> None:
    values = torch.rand(3, 4)
    first = {"a": values, "b": torch.zeros(())}
    second = {"b": torch.zeros(()), "a": values.T.contiguous().T}
    assert tensor_digest(first) == tensor_digest(second)


def test_the_digest_takes_empty_and_half_precision_tensors() -> None:
    tensors = [torch.zeros(0), torch.zeros(2, dtype=torch.bfloat16), torch.zeros(2, dtype=torch.float16)]
    assert len({tensor_digest({"a": tensor}) for tensor in tensors}) == 3
