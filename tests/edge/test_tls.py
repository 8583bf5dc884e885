"""TLS to callers and to services, with certificates that are read again while the edge runs."""

from __future__ import annotations

import hashlib
import ssl
import subprocess
from pathlib import Path

import grpc
import httpx
import pytest
from edge.attackers import another_client
from edge.conftest import Edge, Start
from edge.fakes_behind import CAP, Decoder
from samserve.client import CachedImage, Click, Client
from samserve.local.certificates import CA, CERTIFICATE, KEY, write_certificates
from stacks import until

IMAGE = CachedImage(hashlib.sha256(b"tls").hexdigest())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    write_certificates(folder)
    return folder


def own(folder: Path, kind: str) -> dict[str, object]:
    return {
        f"SAMSERVE_{kind}_CERT_FILE": folder / CERTIFICATE,
        f"SAMSERVE_{kind}_KEY_FILE": folder / KEY,
    }


@pytest.fixture(scope="module")
def edge(start: Start, folder: Path) -> Edge:
    return start(**own(folder, "EDGE"))


def trusting(folder: Path) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials((folder / CA).read_bytes())


def test_grpc_and_http_are_answered_with_tls(edge: Edge, folder: Path) -> None:
    with Client(edge.address, edge.address, credentials=trusting(folder)) as client:
        assert client.segment(IMAGE, [Click(1, 1)]).masks[0].area == 1
    context = ssl.create_default_context(cafile=str(folder / CA))
    assert httpx.get(f"https://{edge.address}/v1/models", verify=context).text == "ok"


def test_a_caller_without_tls_gets_nothing(edge: Edge) -> None:
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"http://{edge.address}/v1/models", timeout=CAP)


def test_old_versions_of_tls_are_refused(edge: Edge) -> None:
    host, port = edge.address.split(":")
    done = subprocess.run(
        [
            "openssl",
            "s_client",
            "-connect",
            f"{host}:{port}",
            "-tls1_1",
            "-cipher",
            "ALL@SECLEVEL=0",
        ],
        input=b"",
        capture_output=True,
        check=False,
    )
    assert done.returncode != 0


def test_a_new_certificate_is_served_without_a_restart(start: Start, tmp_path: Path) -> None:
    write_certificates(tmp_path)
    edge = start(**own(tmp_path, "EDGE"))
    host, port = edge.address.split(":")
    old = trusting(tmp_path)
    first = ssl.get_server_certificate((host, int(port)))
    with another_client(edge.address, credentials=old):
        write_certificates(tmp_path)
        until(lambda: ssl.get_server_certificate((host, int(port))) != first)


def test_a_caller_without_a_certificate_is_refused_if_one_is_required(
    start: Start, folder: Path
) -> None:
    edge = start(
        **own(folder, "EDGE"),
        SAMSERVE_EDGE_CLIENT_CA_FILE=folder / CA,
        SAMSERVE_EDGE_CLIENT_CERTIFICATES="required",
    )
    context = ssl.create_default_context(cafile=str(folder / CA))
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"https://{edge.address}/v1/models", verify=context, timeout=CAP)
    context.load_cert_chain(folder / CERTIFICATE, folder / KEY)
    assert httpx.get(f"https://{edge.address}/v1/models", verify=context).text == "ok"


def test_services_are_called_with_mutual_tls(start: Start, folder: Path, tmp_path: Path) -> None:
    pair = ((folder / KEY).read_bytes(), (folder / CERTIFICATE).read_bytes())
    server = grpc.ssl_server_credentials(
        [pair], root_certificates=(folder / CA).read_bytes(), require_client_auth=True
    )
    decoder = Decoder(server)
    services = {
        "DECODER_URL": decoder.address,
        "SAMSERVE_EDGE_SERVICES_CA_FILE": folder / CA,
        **own(folder, "EDGE_SERVICES"),
    }
    try:
        edge = start(**services)
        with Client(edge.address, edge.address, timeout=CAP) as client:
            assert client.segment(IMAGE, [Click(1, 1)]).masks[0].area == 1

        # A service that another CA vouches for is not believed.
        write_certificates(tmp_path)
        doubting = start(**{**services, "SAMSERVE_EDGE_SERVICES_CA_FILE": tmp_path / CA})
        with grpc.insecure_channel(doubting.address) as channel:
            ask = channel.unary_unary("/samserve.v1.SegmentationService/ListModels")
            with pytest.raises(grpc.RpcError) as refused:
                ask(b"", timeout=CAP)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    finally:
        decoder.close()
