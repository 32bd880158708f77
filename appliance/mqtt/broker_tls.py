"""TLS towards the site broker, and what went wrong with a connection, in a line that says what to do."""

from __future__ import annotations

import ssl

from appliance.config import BrokerConfig
from appliance.errors import ConfigError


def broker_context(config: BrokerConfig) -> ssl.SSLContext | None:
    """None where the broker is spoken to plainly. Raises ConfigError when a file cannot be used."""
    if not config.tls:
        return None
    try:
        context = ssl.create_default_context(cafile=config.ca_file)
    except OSError as error:
        raise ConfigError(f"broker.ca_file {config.ca_file}: {_said(error)}; give certificates as PEM") from error
    if config.cert_file is not None:
        try:
            # Without an answer of its own OpenSSL would ask the terminal for the password of a locked key.
            context.load_cert_chain(config.cert_file, config.key_file, password=lambda: b"")
        except OSError as error:
            raise ConfigError(
                f"broker.cert_file {config.cert_file}, broker.key_file {config.key_file}: {_said(error)};"
                " give a certificate chain and its key, both PEM, the key without a password"
            ) from error
    return context


def why(error: Exception) -> str:
    """Why there is no connection."""
    if isinstance(error, ssl.SSLCertVerificationError):
        said = error.verify_message.rstrip(".")
        return f"its certificate is not accepted ({said}); check broker.ca_file, broker.host and the clock"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed ({_said(error)}); check broker.port, broker.tls and broker.cert_file"
    return _said(error)


def _said(error: Exception) -> str:
    """ssl.SSLError is an OSError whose `strerror` ends with a place in OpenSSL's source."""
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.replace("_", " ").lower()
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text.replace("\n", " ")
