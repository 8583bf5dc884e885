from pathlib import Path

import pytest
from samserve.bundles.gpu import Gpu, UnknownGpu, gpu_here, parse_gpu
from samserve.variants.compiler import STANDARD, Compiler, NoCompiler, find_compiler


@pytest.fixture
def l4(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with an L4: its driver's tool, as far as it is asked."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text('#!/bin/sh\n[ "$1" = --query-gpu=name,compute_cap ] && echo "NVIDIA L4, 8.9"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")


@pytest.fixture
def no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.parametrize("text", ["sm89", "SM_89", "89", "8.9", "L4", "l40s", "RTX 4090"])
def test_a_target_is_a_capability_or_a_gpus_name(text: str) -> None:
    assert parse_gpu(text).capability == 89


@pytest.mark.parametrize("text", ["sm42", "8", "sm890", "Voodoo 2", ""])
def test_an_unknown_target_is_answered_with_those_there_are(text: str) -> None:
    with pytest.raises(UnknownGpu, match=r"sm75 \(T4\).*sm89 \(L4, L40S, RTX 4090\).*'here'"):
        parse_gpu(text)


@pytest.mark.usefixtures("l4")
def test_here_is_the_gpu_of_this_machine() -> None:
    assert parse_gpu("here") == Gpu(89, "L4")
    assert parse_gpu("here").slug == "l4-sm89"


@pytest.mark.usefixtures("no_gpu")
def test_here_without_a_gpu_asks_for_a_name() -> None:
    assert gpu_here() is None
    with pytest.raises(UnknownGpu, match="no NVIDIA GPU on this machine"):
        parse_gpu("here")


@pytest.mark.usefixtures("l4")
def test_tensorrt_compiles_for_the_gpu_it_runs_on_and_no_other() -> None:
    tensorrt = Compiler(STANDARD, trt=None)
    assert tensorrt.aim(Gpu(89)) == Gpu(89, "L4")
    with pytest.raises(NoCompiler, match="not for sm90"):
        tensorrt.aim(Gpu(90))


@pytest.mark.usefixtures("no_gpu")
def test_without_any_tensorrt_one_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tensorrt_rtx_bindings", None)
    with pytest.raises(NoCompiler, match=r"pip install 'samserve\[engine-check\]'"):
        find_compiler()
