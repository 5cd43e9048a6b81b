# SPDX-License-Identifier: Apache-2.0
"""--otlp and OTEL_EXPORTER_OTLP_*: what they mean, and the clear error for what means nothing."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from kernelspan_agent.errors import UsageError
from kernelspan_agent.export.settings import GRPC, HTTP, OtlpSettings, settings_from
from kernelspan_api.handling import ExportTLS
from tests.support.tls import TlsFiles

P = "OTEL_EXPORTER_OTLP_"


@pytest.mark.parametrize(
    ("endpoint", "environ", "wanted"),
    [
        ("", {}, (GRPC, "http://localhost:4317")),
        ("", {"PROTOCOL": "http/protobuf"}, (HTTP, "http://localhost:4318/v1/traces")),
        ("localhost:4317", {}, (GRPC, "http://localhost:4317")),
        ("localhost", {}, (GRPC, "http://localhost:4317")),
        ("localhost:4318", {}, (HTTP, "http://localhost:4318/v1/traces")),
        ("http://gw/otlp", {}, (HTTP, "http://gw:80/otlp")),
        ("https://gw:9/x/y", {"PROTOCOL": "grpc"}, (GRPC, "https://gw:9")),
        ("https://gw", {}, (GRPC, "https://gw:443")),
        ("[::1]:4317", {}, (GRPC, "http://[::1]:4317")),
        ("localhost:1", {"INSECURE": "false"}, (GRPC, "https://localhost:1")),
        ("http://localhost:1", {"INSECURE": "false"}, (GRPC, "http://localhost:1")),
        ("other:1", {"ENDPOINT": "http://localhost:2"}, (GRPC, "http://other:1")),
        ("", {"ENDPOINT": "localhost:2"}, (GRPC, "https://localhost:2")),
        ("", {"ENDPOINT": "localhost:2", "INSECURE": "TRUE"}, (GRPC, "http://localhost:2")),
        ("", {"ENDPOINT": "http://gw:4318"}, (HTTP, "http://gw:4318/v1/traces")),
        ("", {"ENDPOINT": "http://gw:4318/base/"}, (HTTP, "http://gw:4318/base/v1/traces")),
        ("", {"TRACES_ENDPOINT": "http://gw:4318"}, (HTTP, "http://gw:4318/")),
        ("", {"TRACES_ENDPOINT": "http://a:4318/t", "ENDPOINT": "http://b:1"}, (HTTP, "http://a:4318/t")),
        ("", {"TRACES_ENDPOINT": " ", "ENDPOINT": "http://b:1"}, (GRPC, "http://b:1")),
        ("", {"TRACES_PROTOCOL": "http/protobuf", "PROTOCOL": "grpc"}, (HTTP, "http://localhost:4318/v1/traces")),
    ],
)
def test_endpoint(endpoint: str, environ: dict[str, str], wanted: tuple[str, str]) -> None:
    """Endpoint and protocol by the rules of the specification, and ours where it leaves a choice."""
    settings = settings_from({P + key: value for key, value in environ.items()}, endpoint)
    assert (settings.protocol, settings.url) == wanted


def test_everything_else() -> None:
    """Headers are decoded, the timeout is in milliseconds, the variable for traces goes first."""
    settings = settings_from(
        {
            f"{P}HEADERS": "api-key=ignored",
            f"{P}TRACES_HEADERS": " Api-Key = a%2Cb%20%3D , x=,,",
            f"{P}TIMEOUT": "2500",
            f"{P}COMPRESSION": "gzip",
        }
    )
    assert settings.headers == (("api-key", "a,b ="), ("x", ""))
    assert (settings.timeout_s, settings.gzip) == (2.5, True)
    assert settings_from({f"{P}TIMEOUT": "0"}).timeout_s == math.inf
    assert settings_from({}) == OtlpSettings(GRPC, "localhost", 4317, timeout_s=10.0)


def test_certificates(tls_files: TlsFiles) -> None:
    """A certificate makes an endpoint without scheme a TLS one; over plain text it is not used."""
    environ = {
        f"{P}CERTIFICATE": str(tls_files.ca),
        f"{P}CLIENT_CERTIFICATE": str(tls_files.client_certificate),
        f"{P}CLIENT_KEY": str(tls_files.client_key),
    }
    settings = settings_from(environ, "localhost:1")
    assert settings.secure
    assert (settings.certificate, settings.client_key) == (str(tls_files.ca), str(tls_files.client_key))
    assert settings_from(environ, "http://localhost:1").certificate == ""


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("PROTOCOL", "http/json", "must be grpc or http/protobuf"),
        ("COMPRESSION", "zstd", "must be gzip or none"),
        ("TIMEOUT", "10s", "must be a whole number of milliseconds"),
        ("TIMEOUT", "-1", "must be a whole number of milliseconds"),
        ("TIMEOUT", "9" * 5000, "must be a whole number of milliseconds"),
        ("HEADERS", "novalue", "item 1 must be name=value"),
        ("HEADERS", "a=1,b c=2", "item 2 must be name=value"),
        ("HEADERS", "a=%0d%0aevil:1", "the value of a must be printable ASCII"),
        ("HEADERS", "a=%C3%A9", "the value of a must be printable ASCII"),
        ("HEADERS", "grpc-timeout=1", "grpc-timeout is not the user's"),
        ("HEADERS", "x-bin=1", "x-bin is not the user's"),
        ("CERTIFICATE", "/nonexistent/ca.pem", "No such file"),
        ("CERTIFICATE", "/dev/null", "holds no PEM"),
        ("CLIENT_CERTIFICATE", "/\0", "cannot be read"),
        ("ENDPOINT", "ftp://localhost", "scheme must be http or https"),
        ("ENDPOINT", "http://", "is no endpoint"),
        ("ENDPOINT", "http://user:secret@localhost", "do not belong into an endpoint"),
        ("ENDPOINT", "http://[::1", "Invalid IPv6"),
        ("ENDPOINT", "http://localhost:0", "the port must be a number"),
        ("ENDPOINT", "http://localhost:70000", "the port must be a number"),
        ("ENDPOINT", "http://localhost:x", "the port must be a number"),
        ("ENDPOINT", "http://a b", "is no endpoint"),
        ("ENDPOINT", "http://localhost?x", "is no endpoint"),
        ("ENDPOINT", "http://ex\x00mple", "is no endpoint"),
    ],
)
def test_bad_values(key: str, value: str, says: str) -> None:
    """Each names its variable and what is allowed, and is short however long the value was."""
    with pytest.raises(UsageError, match=says) as caught:
        settings_from({P + key: value})
    assert str(caught.value).startswith(P + key)
    assert len(str(caught.value)) < 300
    assert caught.value.exit_code == 2


def test_bad_insecure() -> None:
    """The option is looked at where it decides."""
    with pytest.raises(UsageError, match="INSECURE='maybe': must be true or false"):
        settings_from({f"{P}ENDPOINT": "localhost:1", f"{P}INSECURE": "maybe"})


def test_bad_option() -> None:
    """What is wrong on the command line is said of the command line."""
    for endpoint in (" ", "grpc://x", "::::"):
        with pytest.raises(UsageError, match="--otlp"):
            settings_from({}, endpoint)


def test_no_secret_in_messages() -> None:
    """The value of a header never stands in a message."""
    for headers in ("key=s3cret\x01", "k ey=s3cret", "grpc-x=s3cret", "s3cret"):
        with pytest.raises(UsageError) as caught:
            settings_from({f"{P}HEADERS": headers})
        assert "s3cret" not in str(caught.value) + caught.value.hint
    with pytest.raises(UsageError) as caught:
        settings_from({}, "http://user:s3cret@host")
    assert "s3cret" not in str(caught.value) + caught.value.hint


def test_lone_client_certificate(tls_files: TlsFiles, tmp_path: Path) -> None:
    """A certificate without its key is refused; a file that is a directory is one that cannot be read."""
    with pytest.raises(UsageError, match="go together"):
        settings_from({f"{P}CLIENT_CERTIFICATE": str(tls_files.client_certificate)})
    with pytest.raises(UsageError, match=r"CERTIFICATE: .*cannot be read: Is a directory"):
        settings_from({f"{P}CERTIFICATE": str(tmp_path)})


def test_what_a_profile_says_of_tls() -> None:
    """It makes an endpoint without scheme a secure one, and not one that is said to be plain; names have parts of 1 to 63 characters."""
    tls = ExportTLS(server_name="collector.test", insecure_skip_verify=True)
    found = settings_from({}, "10.0.0.1:4318", tls)
    assert (found.secure, found.server_name, found.verify) == (True, "collector.test", False)
    plain = settings_from({}, "http://10.0.0.1:4318", tls)
    assert (plain.secure, plain.server_name) == (False, "")
    for name in ("a" * 64, ".a", "a..b"):
        with pytest.raises(UsageError, match="serverName"):
            settings_from({}, "10.0.0.1:4318", ExportTLS(server_name=name))
