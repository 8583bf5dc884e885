"""The authoriser as the edge asks it, over gRPC."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import grpc.aio
import pytest
from google.protobuf.struct_pb2 import Struct
from samserve.cli.main import app as command_line
from samserve.identity.authoriser import Authoriser, Claims
from samserve.identity.failures import Failures
from samserve.identity.keys import KeyHasher
from samserve.identity.servicer import SERVICE, AuthorizationServicer, add_to_server
from samserve.identity.store import FileStore
from samserve.identity.v1 import authorization_pb2 as pb
from samserve.identity.watched import WatchedKeys
from typer.testing import CliRunner

PEPPER = "pepper-pepper-pepper"
EDGE = "the-edge's-own-secret"
PREDICT = "/samserve.v1.SegmentationService/Predict"


@dataclass
class Identity:
    """The authoriser, and the commands that change its keys."""

    keys: WatchedKeys
    store: FileStore
    ask: grpc.aio.UnaryUnaryMultiCallable

    async def check(
        self,
        headers: dict[str, str],
        path: str = PREDICT,
        claims: dict[str, str] | None = None,
        address: str = "192.0.2.1",
    ) -> pb.CheckResponse:
        request = pb.CheckRequest()
        http = request.attributes.request.http
        http.method, http.path = "POST", path
        http.headers.update(headers)
        request.attributes.source.address.socket_address.address = address
        if claims is not None:
            found = Struct()
            found.update({"token": claims})
            names = request.attributes.metadata_context.filter_metadata
            names["envoy.filters.http.jwt_authn"].CopyFrom(found)
        await self.keys.refresh()
        answer: pb.CheckResponse = await self.ask(request, timeout=30)
        return answer


def run(*arguments: str) -> dict[str, str]:
    done = CliRunner().invoke(command_line, ["keys", *arguments, "--json"])
    assert done.exit_code == 0, done.output
    answer: dict[str, str] = json.loads(done.stdout)
    return answer


@pytest.fixture
async def identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Identity]:
    file = tmp_path / "keys.json"
    monkeypatch.setenv("SAMSERVE_KEYS_FILE", str(file))
    monkeypatch.setenv("SAMSERVE_KEY_PEPPER", PEPPER)
    store = FileStore(file)
    keys = WatchedKeys(store, grace=30)
    servicer = AuthorizationServicer(
        Authoriser(KeyHasher(PEPPER), Claims()), keys, Failures(5, 6), EDGE
    )
    server = grpc.aio.server()
    add_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        ask = channel.unary_unary(
            f"/{SERVICE}/Check",
            request_serializer=pb.CheckRequest.SerializeToString,
            response_deserializer=pb.CheckResponse.FromString,
        )
        yield Identity(keys, store, ask)
    await server.stop(None)


def status(answer: pb.CheckResponse) -> int:
    return int(answer.denied_response.status.code) or 200


async def test_a_keyed_call_gets_its_tenant_and_loses_its_key(identity: Identity) -> None:
    created = run("create", "acme", "--name", "a test")
    answer = await identity.check({"authorization": f"Bearer {created['key']}"})
    assert answer.status.code == 0
    headers = {each.header.key: each.header.value for each in answer.ok_response.headers}
    assert headers == {
        "samserve-tenant": "acme",
        "samserve-edge": EDGE,
        "samserve-key-id": created["id"],
        "samserve-plan": "default",
    }
    # A forged header of the same name is replaced, not kept beside.
    assert all(each.HasField("append") for each in answer.ok_response.headers)
    assert not any(each.append.value for each in answer.ok_response.headers)
    assert {"authorization", "x-api-key", "token"} <= set(answer.ok_response.headers_to_remove)
    assert list(answer.ok_response.query_parameters_to_remove) == ["api_key"]


async def test_wrong_keys_of_all_kinds_get_one_answer(identity: Identity) -> None:
    created = run("create", "acme")
    key, wrong = created["key"], created["key"][:-4] + "0000"
    expired = run("create", "acme", "--expires", "1m")
    identity.store.change(
        lambda known: replace(
            known,
            keys={
                **known.keys,
                expired["id"]: replace(known.keys[expired["id"]], expires=time.time() - 1),
            },
        )
    )
    answers = [
        await identity.check({"authorization": f"Bearer {each}"} if each else {}, address=each)
        for each in ("", "nonsense", wrong, expired["key"], "eyJhbGciOiJub25lIn0.e30.")
    ]
    assert (await identity.check({"x-api-key": key})).status.code == 0
    run("revoke", created["id"])
    answers.append(await identity.check({"x-api-key": key}))

    assert {status(answer) for answer in answers} == {401}
    assert len({answer.SerializeToString() for answer in answers}) == 1
    assert answers[0].status.code == grpc.StatusCode.UNAUTHENTICATED.value[0]


@pytest.mark.parametrize(
    ("path", "read"),
    [
        ("/v1/models", lambda body: body["detail"]),
        ("/label-studio/predict", lambda body: body["detail"]),
        ("/sam2/embed_image", lambda body: body["message"]),
        ("/api/functions", lambda body: body["message"]),
        ("/xanylabeling/v1/predict", lambda body: body["error"]["message"]),
    ],
)
async def test_a_refusal_has_the_form_that_the_client_reads(
    identity: Identity, path: str, read: Callable[[dict[str, object]], str]
) -> None:
    denied = (await identity.check({}, path)).denied_response
    assert "credentials" in read(json.loads(denied.body))


async def test_a_key_without_the_scope_is_denied(identity: Identity) -> None:
    created = run("create", "acme", "--scope", "embed")
    answer = await identity.check({"x-api-key": created["key"]})
    assert status(answer) == 403
    assert answer.status.code == grpc.StatusCode.PERMISSION_DENIED.value[0]


async def test_a_token_that_the_edge_has_verified_makes_its_tenant(identity: Identity) -> None:
    answer = await identity.check({}, claims={"tenant": "acme", "sub": "ann"})
    assert answer.ok_response.headers[0].header.value == "acme"
    # The same text in a header is nothing.
    assert status(await identity.check({"token": '{"tenant": "acme"}'})) == 401


async def test_failed_attempts_are_limited_and_valid_keys_are_not(identity: Identity) -> None:
    key = run("create", "acme")["key"]
    answers = [await identity.check({"x-api-key": "no"}) for _ in range(8)]
    assert [status(answer) for answer in answers] == [401] * 5 + [429] * 3
    retry = {each.header.key: each.header.value for each in answers[-1].denied_response.headers}
    assert int(retry["retry-after"]) > 0
    assert (await identity.check({"x-api-key": key})).status.code == 0
    assert status(await identity.check({"x-api-key": "no"}, address="192.0.2.9")) == 401


async def test_nothing_of_a_key_is_logged_or_kept(
    identity: Identity, capfd: pytest.CaptureFixture[str]
) -> None:
    created = run("create", "acme")
    key, secret = created["key"], created["key"].rpartition("_")[2]
    for headers in (
        {"authorization": f"Bearer {key}"},
        {"authorization": f"Bearer {key}0"},
        {"x-api-key": key[:-1]},
        {"token": secret},
    ):
        answer = await identity.check(headers)
        assert secret[:-1] not in str(answer)
    run("list"), run("revoke", created["id"])
    written = "".join(capfd.readouterr())
    assert secret[:-1] not in written
    assert secret[:-1] not in (identity.store._path).read_text()


async def test_a_tenants_plan_goes_with_its_calls(identity: Identity) -> None:
    key = run("create", "acme")["key"]
    for options in (["--weight", "2", "--requests", "60"], ["--encodes", "0"]):
        done = CliRunner().invoke(command_line, ["tenants", "set", "acme", *options, "--json"])
        assert done.exit_code == 0, done.output
    answer = await identity.check({"x-api-key": key})
    headers = {each.header.key: each.header.value for each in answer.ok_response.headers}
    assert headers["samserve-plan"] == "weight=2.0 requests=60 encodes=0"

    wrong = CliRunner().invoke(command_line, ["tenants", "set", "acme", "--weight", "0", "--json"])
    assert wrong.exit_code == 2
    assert "weight: 0" in json.loads(wrong.stdout)["error"]
    listed = CliRunner().invoke(command_line, ["tenants", "list", "--json"])
    assert json.loads(listed.stdout)[0]["tenant"] == "acme"


def test_mistakes_of_the_command_say_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAMSERVE_KEYS_FILE", str(tmp_path / "keys.json"))
    monkeypatch.setenv("SAMSERVE_KEY_PEPPER", PEPPER)
    for arguments, said in (
        (["create", "a:b"], "invalid tenant 'a:b'"),
        (["create", "a", "--scope", "all"], "unknown scope 'all'; available: admin"),
        (["create", "a", "--expires", "soon"], "invalid lifetime 'soon'"),
        (["revoke", "0" * 12], "unknown key"),
    ):
        done = CliRunner().invoke(command_line, ["keys", *arguments, "--json"])
        assert done.exit_code == 2
        assert said in json.loads(done.stdout)["error"]

    monkeypatch.delenv("SAMSERVE_KEY_PEPPER")
    done = CliRunner().invoke(command_line, ["keys", "list", "--json"])
    assert "SAMSERVE_KEY_PEPPER" in json.loads(done.stdout)["error"]


def test_without_settings_the_keys_are_this_machines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SAMSERVE_KEYS_FILE", "SAMSERVE_KEYS_URL", "SAMSERVE_KEY_PEPPER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    created = run("create", "acme")
    done = CliRunner().invoke(command_line, ["keys", "list"])
    assert created["id"] in done.stdout
    assert created["key"] not in done.stdout
    assert (tmp_path / "samserve" / "keys.pepper").stat().st_mode & 0o777 == 0o600
