"""TLS for the listener: its own certificate, and those of its clients where an authority for them is named."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any

from appliance.config import ListenerConfig
from appliance.errors import ConfigError


def make_context(config: ListenerConfig) -> ssl.SSLContext | None:
    """None where the listener speaks plainly. Raises ConfigError when a file cannot be used."""
    if config.cert_file is None or config.key_file is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # Without an answer of its own OpenSSL would ask the terminal for the password of a locked key.
        context.load_cert_chain(config.cert_file, config.key_file, password=lambda: b"")
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"listener.cert_file {config.cert_file}, listener.key_file {config.key_file}: {_reason(error)};"
            " give a certificate chain and its key, both PEM, the key without a password"
        ) from error
    if config.client_ca_file is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(config.client_ca_file)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"listener.client_ca_file {config.client_ca_file}: {_reason(error)}; give certificates as PEM"
            ) from error
    return context


def common_name(certificate: Mapping[str, Any] | None) -> str | None:
    """The common name in a client's certificate, as `ssl.SSLSocket.getpeercert` gives it."""
    for part in (certificate or {}).get("subject", ()):
        for name, value in part:
            if name == "commonName":
                return str(value)
    return None


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).replace("\n", " ")
