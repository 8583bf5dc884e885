"""TLS: to callers and to services, with certificates that are read again when they change.

Certificates come by SDS from files. Envoy watches a file's folder, and reads again when a file is
moved there, as Kubernetes and cert-manager do it.
"""

from __future__ import annotations

from pathlib import Path

from samserve.edge.values import Json, typed
from samserve.infra.settings import EdgeSettings

TLS = "envoy.extensions.transport_sockets.tls.v3"
OLDEST = {"tls_minimum_protocol_version": "TLSv1_2"}


def secrets(settings: EdgeSettings) -> dict[str, Json]:
    """Return the SDS files to write, by name."""
    named: dict[str, Json] = {}
    for name, kind in (("edge", "edge"), ("services", "edge_services")):
        if cert := getattr(settings, f"{kind}_cert_file"):
            key = getattr(settings, f"{kind}_key_file")
            named[f"{name}-certificate"] = {
                "tls_certificate": {
                    "certificate_chain": {"filename": cert},
                    "private_key": {"filename": key},
                    "watched_directory": {"path": str(Path(cert).parent)},
                }
            }
    authorities = {
        "callers-ca": settings.edge_client_ca_file,
        "services-ca": settings.edge_services_ca_file,
    }
    for name, file in authorities.items():
        if file:
            named[name] = {
                "validation_context": {
                    "trusted_ca": {"filename": file},
                    "watched_directory": {"path": str(Path(file).parent)},
                }
            }
    return {name: _secret_file(name, body) for name, body in named.items()}


def downstream(settings: EdgeSettings, folder: Path) -> Json | None:
    """Return the transport of the public listener; None: plain TCP."""
    if not settings.edge_cert_file:
        return None
    common: Json = {
        "tls_params": OLDEST,
        "alpn_protocols": ["h2", "http/1.1"],
        "tls_certificate_sds_secret_configs": [_reference("edge-certificate", folder)],
    }
    if settings.edge_client_ca_file:
        common["validation_context_sds_secret_config"] = _reference("callers-ca", folder)

    required = settings.edge_client_ca_file and settings.edge_client_certificates == "required"
    context = typed(
        f"{TLS}.DownstreamTlsContext",
        common_tls_context=common,
        require_client_certificate=bool(required),
    )
    return {"name": "envoy.transport_sockets.tls", "typed_config": context}


def upstream(settings: EdgeSettings, folder: Path, name: str, protocol: str) -> Json | None:
    """Return the transport to a service; None: plain TCP.

    Args:
        settings: The edge's.
        folder: Of the SDS files.
        name: Host name that the service's certificate must have.
        protocol: ALPN: "h2" or "http/1.1".
    """
    if not settings.edge_services_ca_file:
        return None
    common: Json = {
        "tls_params": OLDEST,
        "alpn_protocols": [protocol],
        "combined_validation_context": {
            "default_validation_context": {
                "match_typed_subject_alt_names": [
                    {"san_type": kind, "matcher": {"exact": name}} for kind in ("DNS", "IP_ADDRESS")
                ]
            },
            "validation_context_sds_secret_config": _reference("services-ca", folder),
        },
    }
    if settings.edge_services_cert_file:
        reference = _reference("services-certificate", folder)
        common["tls_certificate_sds_secret_configs"] = [reference]
    context = typed(f"{TLS}.UpstreamTlsContext", common_tls_context=common, sni=name)
    return {"name": "envoy.transport_sockets.tls", "typed_config": context}


def _reference(name: str, folder: Path) -> Json:
    source = {"path": str(folder / f"{name}.json"), "watched_directory": {"path": str(folder)}}
    return {
        "name": name,
        "sds_config": {"path_config_source": source, "resource_api_version": "V3"},
    }


def _secret_file(name: str, body: Json) -> Json:
    return {"resources": [typed(f"{TLS}.Secret", name=name, **body)]}
