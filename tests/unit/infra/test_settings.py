import pytest
from samserve.bundles.names import model_name
from samserve.infra.settings import DecoderSettings, EmbeddingSettings, load_settings


def test_known_variables_keep_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://cache:6380/1")
    monkeypatch.setenv("SAMSERVE_DECODER_PORT", "9001")
    settings = load_settings(DecoderSettings)
    assert (settings.redis_url, settings.decoder_port) == ("redis://cache:6380/1", 9001)


def test_a_wrong_variable_is_named_and_ends_the_program(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SAMSERVE_REPLICAS", "many")
    monkeypatch.setenv("REDIS_URL", "http://cache")
    with pytest.raises(SystemExit) as ended:
        load_settings(EmbeddingSettings)
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert "SAMSERVE_REPLICAS='many'" in said
    assert "REDIS_URL='http://cache'" in said


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
    ("name", "value", "says"),
    [
        ("MODELS", "", "give the models' names"),
        ("MODELS", "nano,,huge", "give the models' names"),
        ("MODELS", "nano,nano:int8", "each model once"),
        ("CACHE_CODING", "tiny", "'small' or 'exact'"),
    ],
)
def test_a_wrong_list_of_models_or_coding_is_refused(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    value: str,
    says: str,
) -> None:
    monkeypatch.setenv(f"SAMSERVE_{name}", value)
    with pytest.raises(SystemExit):
        load_settings(DecoderSettings)
    said = capsys.readouterr().err
    assert f"SAMSERVE_{name}={value!r}" in said
    assert says in said
