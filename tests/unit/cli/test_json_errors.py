"""Failures under --json: a JSON line with "error", a message on stderr, the exit code."""

import json
from collections.abc import Generator
from importlib.util import find_spec
from pathlib import Path

import pytest
from samserve.bundles.names import SHIPPED
from samserve.cli.main import app
from samserve.client import BulkResult, Client
from samserve.core.errors import InvalidInput, ModelNotFound, Unavailable
from samserve.local import state
from typer.testing import CliRunner, Result


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No stack runs, and there are no bundles but the shipped ones and a broken one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("SAMSERVE_BUNDLES", str(tmp_path / "bundles"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("DECODER_URL", raising=False)
    monkeypatch.delenv("EMBEDDING_URL", raising=False)
    (tmp_path / "image.png").write_bytes(b"an image")
    (tmp_path / "empty").mkdir()


@pytest.fixture
def services(monkeypatch: pytest.MonkeyPatch) -> None:
    """Addresses at which nothing listens; calls are replaced."""
    monkeypatch.setenv("DECODER_URL", "127.0.0.1:1")
    monkeypatch.setenv("EMBEDDING_URL", "127.0.0.1:1")


def run(*words: str) -> Result:
    return CliRunner().invoke(app, [*words])


def check(result: Result, code: int, says: str, *, lines: int = 1) -> None:
    assert result.exit_code == code, result.output
    printed = result.stdout.splitlines()
    assert len(printed) == lines
    error = json.loads(printed[-1])["error"]
    assert says in error
    assert error in " ".join(result.stderr.split())


EXPORT_ERROR = "nowhere.pth" if find_spec("torch") else "export requires torch"


@pytest.mark.parametrize(
    ("command", "code", "says"),
    [
        ("status", 1, "no stack runs on this machine; start one with `samserve up`"),
        ("segment image.png --point 1,1", 1, "no stack runs on this machine"),
        ("segment image.png --point one,two", 2, "invalid point 'one,two'; expected X,Y"),
        ("segment image.png --point 1", 2, "invalid point '1'"),
        ("segment image.png --box 1,2,3", 2, "invalid box '1,2,3'; expected X0,Y0,X1,Y1"),
        ("embed image.png", 1, "no stack runs on this machine"),
        ("embed nowhere.png", 2, "file not found: nowhere.png"),
        ("embed empty", 2, "no images in empty"),
        ("models verify sam9", 2, "sam9"),
        ("models quantise sam9", 2, "sam9"),
        ("models quantise nano --precision int9", 2, "unknown precision 'int9'; available: auto"),
        ("models quantize nano --precision int9", 2, "unknown precision 'int9'; available: auto"),
        ("models engine sam9 --target L4", 2, "sam9"),
        ("models engine nano --target L5", 2, "L5"),
        ("models engine nano --target L4 --batch 4,1,8", 2, "4,1,8"),
        ("models export --checkpoint nowhere.pth --name mine", 2, EXPORT_ERROR),
        ("models pull sam-vit-z", 2, "unknown model 'sam-vit-z'; available: sam-vit-b"),
    ],
)
def test_a_failing_command_prints_its_error_as_json(command: str, code: int, says: str) -> None:
    check(run(*command.split(), "--json"), code, says)


@pytest.mark.parametrize("command", ["segment nowhere.png --point 1,1", "embed nowhere.png"])
@pytest.mark.usefixtures("services")
def test_a_missing_file_is_the_callers_mistake(command: str) -> None:
    check(run(*command.split(), "--json"), 2, "file not found: nowhere.png")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidInput("data", "damaged image"), 2),
        (ModelNotFound("sam9", ["nano"]), 2),
        (Unavailable("the decoder is away"), 1),
    ],
)
@pytest.mark.usefixtures("services")
def test_an_error_of_the_services_is_printed(
    monkeypatch: pytest.MonkeyPatch, error: Exception, code: int
) -> None:
    def segment(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Client, "segment", segment)
    check(run("segment", "image.png", "--point", "1,1", "--json"), code, str(error))


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (ModelNotFound("sam9", ["nano"]), 2, "nano; 1 of 2 images left"),
        (Unavailable("the service is away"), 1, "the service is away; 1 of 2 images left"),
        (KeyboardInterrupt(), 130, "interrupted; 1 of 2 images left; run the same command again"),
    ],
)
@pytest.mark.usefixtures("services")
def test_an_embed_run_that_ends_early_prints_its_counts_with_the_error(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, says: str
) -> None:
    def embed_many(*_: object, **__: object) -> Generator[BulkResult]:
        yield BulkResult("image.png", error=InvalidInput("data", "damaged"))
        raise error

    monkeypatch.setattr(Client, "embed_many", embed_many)
    result = run("embed", "image.png", "image.png", "--json")
    check(result, code, says, lines=2)
    counts = json.loads(result.stdout.splitlines()[-1])
    assert (counts["images"], counts["failed"]) == (1, 1)


@pytest.mark.parametrize(
    "command",
    [
        "models list",
        "models verify broken",
        "models quantise broken",
        "models engine broken --target L4",
    ],
)
def test_a_broken_bundle_is_a_failure(tmp_path: Path, command: str) -> None:
    broken = tmp_path / "bundles" / "broken"
    broken.mkdir(parents=True)
    facts = json.loads((SHIPPED / "nano" / "model.json").read_text())
    (broken / "model.json").write_text(json.dumps({**facts, "name": "broken"}))
    result = run(*command.split(), "--json")
    assert result.exit_code == 1, result.output
    assert json.loads(result.stdout)["error"]


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("segment", "Missing argument"),
        ("status --wait soon", "Invalid value for '--wait'"),
        ("embed image.png --in-flight 0", "Invalid value for '--in-flight'"),
        ("models pull", "Missing argument"),
        ("models list --colour", "--colour"),
        ("models engine nano --target L4 --precision fp8", "fp8"),
    ],
)
def test_a_usage_error_is_printed_as_json_too(command: str, says: str) -> None:
    result = run(*command.split(), "--json")
    assert result.exit_code == 2
    assert says in json.loads(result.stdout)["error"]
    assert result.stderr


def test_a_bug_is_printed_as_json_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_state() -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(state, "load_state", load_state)
    result = run("status", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {"error": "internal error: ZeroDivisionError: a bug"}
    assert isinstance(result.exception, ZeroDivisionError)


def test_without_json_nothing_is_printed_on_stdout() -> None:
    result = run("segment", "image.png", "--point", "one,two")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == ("samserve: invalid point 'one,two'; expected X,Y or X,Y,1 or X,Y,0\n")


def test_quantize_is_a_hidden_alias_of_quantise() -> None:
    listed = run("models", "--help").stdout
    assert "quantise" in listed
    assert "quantize" not in listed
    assert "--precision" in run("models", "quantize", "--help").stdout
