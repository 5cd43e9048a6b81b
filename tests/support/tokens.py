# SPDX-License-Identifier: Apache-2.0
"""Service-account tokens with other claims than the API server would give: signed anew with the cluster's own key."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import load_pem_private_key


def resigned(token: str, key: Path, **claims: Any) -> str:
    """The token with some of its claims replaced (RFC 7515, ES256)."""
    header, payload, _ = token.split(".")
    changed = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))) | claims
    signed = f"{header}.{_text(json.dumps(changed).encode())}"
    private = load_pem_private_key(key.read_bytes(), None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    first, second = decode_dss_signature(private.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{signed}.{_text(first.to_bytes(32, 'big') + second.to_bytes(32, 'big'))}"


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
