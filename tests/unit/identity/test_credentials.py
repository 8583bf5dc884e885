import base64

import pytest
from samserve.identity.credentials import keys_of
from samserve.identity.keys import key_id_of, new_key

KEY_ID, KEY = new_key()
BASIC = base64.b64encode(f"anyone:{KEY}".encode()).decode()
ALONE = base64.b64encode(KEY.encode()).decode()


@pytest.mark.parametrize(
    ("headers", "path", "body"),
    [
        ({"authorization": f"Bearer {KEY}"}, "/", b""),
        ({"authorization": f"bearer  {KEY} "}, "/", b""),
        ({"authorization": f"Token {KEY}"}, "/", b""),
        ({"authorization": f"Basic {BASIC}"}, "/", b""),
        ({"authorization": f"Basic {ALONE}"}, "/", b""),
        ({"x-api-key": KEY}, "/", b""),
        ({"token": KEY}, "/", b""),
        ({}, f"/sam2/embed_image?a=b&api_key={KEY}", b""),
        ({}, "/sam2/embed_image", f'{{"api_key": "{KEY}", "image": {{"type": "base'.encode()),
        ({}, "/sam2/embed_image", f'{{"id":"x","api_key":"{KEY}","image":'.encode()),
    ],
)
def test_a_key_is_found_wherever_a_client_puts_it(
    headers: dict[str, str], path: str, body: bytes
) -> None:
    assert KEY in list(keys_of(headers, path, body))


@pytest.mark.parametrize(
    ("headers", "path", "body"),
    [
        ({}, "/", b""),
        ({"authorization": "Basic !!!"}, "/", b""),
        ({"authorization": "Basic " + base64.b64encode(b"\xff\xfe").decode()}, "/", b""),
        ({"authorization": "Bearer"}, "/", b""),
        ({}, "/?api_key=" + "&api_key" * 90, b""),
        ({}, "/", b'{"image": {"api_key": "nested'),
        ({}, "/", b'{"api_key": null'),
        ({}, "/", b"\xff" * 1000),
    ],
)
def test_what_is_no_key_is_ignored(headers: dict[str, str], path: str, body: bytes) -> None:
    assert not any(key_id_of(each) for each in keys_of(headers, path, body))


def test_a_key_shows_its_id_and_nothing_else_is_one() -> None:
    assert key_id_of(KEY) == KEY_ID
    for text in ("", KEY_ID, KEY[:-40], KEY + "\n", KEY + "x" * 100, KEY.upper(), "é" * 80):
        assert key_id_of(text) is None
