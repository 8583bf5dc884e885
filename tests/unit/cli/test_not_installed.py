"""Programs in images that do not contain the command line."""

from __future__ import annotations

import subprocess
import sys

import pytest
from samserve import cli
from samserve.infra import settings


def test_without_the_command_line_its_name_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "find_spec", lambda _: None)
    with pytest.raises(SystemExit, match=r"pip install 'samserve\[cli\]'") as ended:
        cli.start()
    assert "samserve.decoder.server" in str(ended.value.code)


def test_a_service_lists_its_variables_and_refuses_arguments() -> None:
    code = (
        "from samserve.infra.settings import DecoderSettings, parse_arguments as parse;"
        "parse('decoder', 'Run.', DecoderSettings)"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=True
    ).stdout
    for name, field in settings.DecoderSettings.model_fields.items():
        assert settings.variable_of(name, field) in shown

    refused = subprocess.run(
        [sys.executable, "-c", code, "--port", "1"], capture_output=True, text=True, check=False
    )
    assert refused.returncode == 2
    assert "--port" in refused.stderr
