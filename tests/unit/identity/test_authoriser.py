from dataclasses import replace
from typing import Any

import pytest
from samserve.core.caller import Caller
from samserve.core.errors import PermissionDenied, Unauthenticated
from samserve.identity.authoriser import Authoriser, Call, Claims
from samserve.identity.keys import KeyHasher, KeyRecord, new_key
from samserve.identity.scopes import DEFAULT, Scope
from samserve.identity.snapshot import Snapshot
from samserve.identity.tenants import TenantRecord

NOW = 1_000_000.0
HASHER = KeyHasher("pepper-pepper-pepper")
PREDICT = "/samserve.v1.SegmentationService/Predict"
EMBED = "/samserve.v1.EmbeddingService/Embed"
DELETE_TENANT = "/samserve.v1.EmbeddingService/DeleteTenant"

KEY_ID, KEY = new_key()
RECORD = KeyRecord(KEY_ID, "acme", HASHER.digest(KEY), DEFAULT, "test", NOW)
KNOWN = Snapshot(
    {KEY_ID: RECORD}, {"metal": TenantRecord("metal", identities=("spiffe://example/robot",))}
)


def check(known: Snapshot = KNOWN, path: str = PREDICT, **changes: Any) -> Caller:
    call = Call("POST", path, changes.pop("headers", {}))
    return Authoriser(HASHER, Claims(), lambda: NOW).check(replace(call, **changes), known)


def with_key(record: KeyRecord = RECORD, key: str = KEY, path: str = PREDICT) -> Caller:
    known = Snapshot({record.key_id: record})
    return check(known, path, headers={"authorization": f"Bearer {key}"})


def test_a_valid_key_makes_its_tenant() -> None:
    caller = with_key()
    assert (caller.tenant, caller.key_id) == ("acme", KEY_ID)


@pytest.mark.parametrize(
    "refused",
    [
        lambda: check(),
        lambda: with_key(key=new_key()[1]),
        lambda: with_key(key=KEY[:-1] + ("0" if KEY[-1] != "0" else "1")),
        lambda: with_key(key=KEY.replace(KEY_ID, "0" * 12)),
        lambda: with_key(replace(RECORD, revoked=NOW - 1)),
        lambda: with_key(replace(RECORD, expires=NOW)),
        lambda: with_key(replace(RECORD, digest=KeyHasher("another-pepper-here").digest(KEY))),
        lambda: check(claims={"sub": "someone"}),
        lambda: check(claims={"tenant": ["acme"]}),
        lambda: check(claims={"tenant": "a:b"}),
        lambda: check(principal="spiffe://example/stranger"),
        lambda: check(headers={"samserve-tenant": "acme"}),
    ],
)
def test_every_kind_of_wrong_credentials_is_refused_alike(refused: Any) -> None:
    with pytest.raises(Unauthenticated) as refusal:
        refused()
    assert str(refusal.value) == str(Unauthenticated())


def test_a_key_is_valid_until_it_expires() -> None:
    assert with_key(replace(RECORD, expires=NOW + 1)).tenant == "acme"


@pytest.mark.parametrize(
    ("scopes", "path", "allowed"),
    [
        ({Scope.PREDICT}, PREDICT, True),
        ({Scope.PREDICT}, EMBED, True),
        ({Scope.EMBED}, EMBED, True),
        ({Scope.EMBED}, PREDICT, False),
        ({Scope.EMBED}, "/v1/images", True),
        ({Scope.EMBED}, "/v1/images/x/masks", False),
        ({Scope.EMBED}, "/sam2/embed_image?x=1", True),
        ({Scope.PREDICT}, "/samserve.v1.EmbeddingService/DeleteEmbedding", False),
        ({Scope.DELETE}, "/samserve.v1.EmbeddingService/DeleteImage", True),
        (DEFAULT, DELETE_TENANT, False),
        ({Scope.ADMIN}, DELETE_TENANT, True),
        ({Scope.ADMIN}, PREDICT, False),
        (DEFAULT, "/a/path/of/tomorrow", True),
    ],
)
def test_scopes_decide_what_a_key_allows(scopes: set[Scope], path: str, allowed: bool) -> None:
    record = replace(RECORD, scopes=frozenset(scopes))
    if allowed:
        with_key(record, path=path)
    else:
        with pytest.raises(PermissionDenied):
            with_key(record, path=path)


def test_http_deletions_need_their_scope() -> None:
    record = replace(RECORD, scopes=frozenset({Scope.PREDICT}))
    call = Call("DELETE", "/v1/images/x", {"x-api-key": KEY})
    with pytest.raises(PermissionDenied):
        Authoriser(HASHER, Claims(), lambda: NOW).check(call, Snapshot({KEY_ID: record}))


def test_a_verified_token_makes_its_tenant_and_scopes() -> None:
    claims = {"tenant": "acme", "sub": "ann", "scope": "embed of:another:service"}
    caller = check(path=EMBED, claims=claims)
    assert (caller.tenant, caller.key_id) == ("acme", "token:ann")
    with pytest.raises(PermissionDenied):
        check(claims=claims)


def test_a_tokens_subject_is_made_fit_for_headers_and_logs() -> None:
    caller = check(claims={"tenant": "acme", "sub": 'ann\r\nx: "y"' + "z" * 1000})
    assert caller.key_id.startswith("token:ann__x:__y_z")
    assert len(caller.key_id) <= 128


def test_a_verified_certificate_makes_its_tenant() -> None:
    assert check(principal="spiffe://example/robot").tenant == "metal"


def test_a_key_counts_more_than_a_certificate() -> None:
    caller = check(principal="spiffe://example/robot", headers={"x-api-key": KEY})
    assert caller.tenant == "acme"


def test_nothing_of_credentials_is_in_a_calls_text() -> None:
    call = Call(
        "POST", PREDICT, {"authorization": f"Bearer {KEY}"}, b'{"api_key": "' + KEY.encode()
    )
    assert KEY[20:] not in repr(call)
    assert RECORD.digest not in repr(HASHER)
