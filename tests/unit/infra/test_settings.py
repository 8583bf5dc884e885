import re
from pathlib import Path

import pytest
from pydantic import SecretStr
from samserve.bundles.names import model_name
from samserve.infra.hosts import AllowedHost
from samserve.infra.settings import (
    BundleSettings,
    DecoderSettings,
    EmbeddingSettings,
    GatewaySettings,
    load_settings,
    unknown_variable_warnings,
    variable_of,
)
from samserve.infra.settings import __file__ as settings_file


def test_well_known_variables_have_no_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://cache:6380/1")
    monkeypatch.setenv("SAMSERVE_DECODER_PORT", "9001")
    settings = load_settings(DecoderSettings)
    assert (settings.redis_url, settings.decoder_port) == ("redis://cache:6380/1", 9001)


def test_an_invalid_variable_is_named_and_ends_the_program(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SAMSERVE_REPLICAS", "many")
    monkeypatch.setenv("REDIS_URL", "http://cache")
    with pytest.raises(SystemExit) as ended:
        load_settings(EmbeddingSettings)
    printed = capsys.readouterr().err
    assert ended.value.code == 2
    assert "SAMSERVE_REPLICAS='many'" in printed
    assert "REDIS_URL='http://cache'" in printed


def test_models_are_listed_and_the_first_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings(DecoderSettings).models == ("nano",)
    monkeypatch.setenv("SAMSERVE_MODELS", "vit-h:sm89, nano")
    assert (
        load_settings(EmbeddingSettings).models
        == load_settings(DecoderSettings).models
        == ("vit-h:sm89", "nano")
    )
    assert [model_name(model) for model in ("vit-h:sm89", "nano")] == ["vit-h", "nano"]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("MODELS", "", "give model names"),
        ("MODELS", "nano,,huge", "give model names"),
        ("MODELS", "nano,nano:int8", "each model once"),
        ("CACHE_CODING", "tiny", "'small' or 'exact'"),
    ],
)
def test_an_invalid_list_of_models_or_coding_is_refused(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    value: str,
    message: str,
) -> None:
    monkeypatch.setenv(f"SAMSERVE_{name}", value)
    with pytest.raises(SystemExit):
        load_settings(EmbeddingSettings)
    printed = capsys.readouterr().err
    assert f"SAMSERVE_{name}={value!r}" in printed
    assert message in printed


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("SAMSERVE_RESIDENT_BYTE", "; did you mean SAMSERVE_RESIDENT_BYTES?"),
        ("SAMSERVE_XYZ", ""),
    ],
)
def test_a_warning_names_an_unknown_variable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, hint: str
) -> None:
    monkeypatch.setenv(name, "1")
    load_settings(EmbeddingSettings)
    assert capsys.readouterr().err == f"unknown variable {name} is ignored{hint}\n"


def test_the_variables_of_every_program_are_known(capsys: pytest.CaptureFixture[str]) -> None:
    known = {
        variable_of(name, field)
        for kind in (EmbeddingSettings, DecoderSettings, BundleSettings)
        for name, field in kind.model_fields.items()
    }
    assert {"SAMSERVE_BUNDLES", "SAMSERVE_REPLICAS", "SAMSERVE_DECODE_QUEUE"} < known
    assert unknown_variable_warnings(dict.fromkeys([*known, "SAMSERVE_LARGE", "HOME"], "")) == []


def test_a_service_has_only_settings_that_it_reads() -> None:
    """Each field is named somewhere in the service's package, or in a method of the settings."""
    folder = Path(settings_file).parent
    services = folder.parents[1]
    methods = "".join(path.read_text() for path in folder.glob("*.py"))
    kinds = {
        "embedding": EmbeddingSettings,
        "decoder": DecoderSettings,
        "gateway": GatewaySettings,
    }
    for package, kind in kinds.items():
        code = "".join(path.read_text() for path in (services / package).rglob("*.py"))
        for name in kind.model_fields:
            assert re.search(rf"\.{name}\b", code) or f"self.{name}" in methods, (package, name)


def test_every_setting_is_described_in_a_sentence() -> None:
    for kind in (EmbeddingSettings, DecoderSettings, GatewaySettings):
        for name, field in kind.model_fields.items():
            assert field.description, name
            assert field.description.endswith("."), name


def test_the_users_folder_is_looked_up_when_the_settings_are_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    own = tmp_path / "samserve" / "bundles"
    assert load_settings(BundleSettings).bundles == load_settings(DecoderSettings).bundles == own
    monkeypatch.setenv("SAMSERVE_BUNDLES", "")
    assert load_settings(BundleSettings).bundles == own
    monkeypatch.setenv("SAMSERVE_BUNDLES", str(tmp_path / "mine"))
    assert load_settings(DecoderSettings).bundles == tmp_path / "mine"


def test_a_short_secret_is_refused_and_none_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SAMSERVE_CACHE_SECRET", "0123456789abcdef")
    settings = load_settings(DecoderSettings)
    assert settings.cache_secret.get_secret_value() == "0123456789abcdef"
    assert "0123456789" not in repr(settings)

    monkeypatch.setenv("SAMSERVE_CACHE_SECRET", "tooshort")
    with pytest.raises(SystemExit):
        load_settings(DecoderSettings)
    printed = capsys.readouterr().err
    assert "SAMSERVE_CACHE_SECRET" in printed
    assert "16 characters" in printed
    assert "tooshort" not in printed


def test_hosts_of_images_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMSERVE_IMAGE_HOSTS", "images.example, cdn.example:8443")
    monkeypatch.setenv("SAMSERVE_PRIVATE_IMAGE_HOSTS", "minio:9000")
    settings = load_settings(GatewaySettings)
    assert settings.image_hosts == (AllowedHost("images.example"), AllowedHost("cdn.example", 8443))
    assert settings.private_image_hosts == (AllowedHost("minio", 9000, private=True),)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("IMAGE_HOSTS", "https://images.example"),
        ("LABEL_STUDIO_URL", "studio.example"),
        ("LABEL_STUDIO_URL", "http://user:password@studio.example"),
    ],
)
def test_an_invalid_host_or_url_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    monkeypatch.setenv(f"SAMSERVE_{name}", value)
    with pytest.raises(SystemExit):
        load_settings(GatewaySettings)
    assert f"SAMSERVE_{name}=" in capsys.readouterr().err


def test_a_token_is_not_shown() -> None:
    settings = GatewaySettings(label_studio_token=SecretStr("0123456789abcdef"))
    assert "0123456789abcdef" not in repr(settings)
