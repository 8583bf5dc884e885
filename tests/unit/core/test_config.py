import pytest
from samserve.core.config import DecoderSettings, EmbeddingSettings, read


def test_known_variables_keep_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://cache:6380/1")
    monkeypatch.setenv("SAMSERVE_DECODER_PORT", "9001")
    settings = read(DecoderSettings)
    assert (settings.redis_url, settings.decoder_port) == ("redis://cache:6380/1", 9001)


def test_a_wrong_variable_is_named_and_ends_the_program(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SAMSERVE_REPLICAS", "many")
    monkeypatch.setenv("REDIS_URL", "http://cache")
    with pytest.raises(SystemExit) as ended:
        read(EmbeddingSettings)
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert "SAMSERVE_REPLICAS='many'" in said
    assert "REDIS_URL='http://cache'" in said
