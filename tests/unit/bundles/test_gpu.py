from pathlib import Path

import pytest
from samserve.bundles.gpu import Gpu, UnknownGpu, gpu_here, parse_gpu
from samserve.variants.compiler import STANDARD, Compiler, NoCompiler, find_compiler


@pytest.fixture
def l4(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with an L4: its driver's tool, reduced to one query."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text('#!/bin/sh\n[ "$1" = --query-gpu=name,compute_cap ] && echo "NVIDIA L4, 8.9"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")


@pytest.fixture
def no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.parametrize("text", ["sm89", "SM_89", "89", "8.9", "L4", "l40s", "RTX 4090"])
def test_a_gpu_is_named_by_its_capability_or_its_product(text: str) -> None:
    assert parse_gpu(text).capability == 89


@pytest.mark.parametrize("text", ["sm42", "8", "sm890", "Voodoo 2", ""])
def test_an_unknown_gpu_is_refused_and_the_supported_ones_are_listed(text: str) -> None:
    with pytest.raises(UnknownGpu, match=r"sm75 \(T4\).*sm89 \(L4, L40S, RTX 4090\).*'here'"):
        parse_gpu(text)


@pytest.mark.usefixtures("l4")
def test_here_is_the_gpu_of_this_machine() -> None:
    assert parse_gpu("here") == Gpu(89, "L4")
    assert parse_gpu("here").slug == "l4-sm89"


@pytest.mark.usefixtures("no_gpu")
def test_here_without_a_gpu_is_refused() -> None:
    assert gpu_here() is None
    with pytest.raises(UnknownGpu, match="no NVIDIA GPU found"):
        parse_gpu("here")


@pytest.mark.usefixtures("l4")
def test_tensorrt_compiles_for_the_gpu_it_runs_on_and_no_other() -> None:
    tensorrt = Compiler(STANDARD, trt=None)
    assert tensorrt.resolve_target(Gpu(89)) == Gpu(89, "L4")
    with pytest.raises(NoCompiler, match="on a machine with sm90"):
        tensorrt.resolve_target(Gpu(90))


@pytest.mark.usefixtures("no_gpu")
def test_without_tensorrt_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tensorrt_rtx_bindings", None)
    with pytest.raises(NoCompiler, match=r"pip install 'samserve\[engine-check\]'"):
        find_compiler()
