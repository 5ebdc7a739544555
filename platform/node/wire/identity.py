"""A server's own key and certificate, made at its first start. Others know it by the certificate's SHA-256 fingerprint.

Who the other side is, the pinned fingerprint alone decides. The certificates are formally issued by a *public issuer*, whose key
anybody can derive from the words below: OpenSSL, as Python drives it, takes a certificate from a client only when it knows the
issuer, and offers no way to judge it otherwise. Within TLS 1.3 each side proves that it has its certificate's key (RFC 8446, 4.4.3),
and :mod:`hostler.node.wire.secured` compares the fingerprint before a byte is read or written.
"""

from __future__ import annotations

import hashlib
import os
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.x509.oid import NameOID

from hostler.core.errors import HostFailure

_PUBLIC_WORDS = b"hostler wire: this issuer is public and proves nothing; fingerprints do"
_ISSUER = "hostler wire, public issuer"
#: The pin is what ends a certificate's life; RFC 5280, 4.1.2.5 gives the second date for "no end".
_FROM, _UNTIL = datetime(2000, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)


@dataclass(frozen=True)
class Identity:
    """Where a server's key and certificate lie, and the fingerprint that it is known by."""

    key: Path
    certificate: Path
    fingerprint: str
    """SHA-256 of the certificate's DER form: 64 lower-case hexadecimal digits."""

    def context(self, *, server: bool) -> ssl.SSLContext:
        """TLS 1.3 and nothing older, both sides with a certificate, no session resumed. Raises :class:`HostFailure`."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False  # the fingerprint is compared instead
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=_issuer())
        if server:
            context.num_tickets = 0
        try:
            context.load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError) as error:
            raise _unusable(self.key.parent, error) from error
        return context


def fingerprint(der: bytes) -> str:
    """SHA-256 of a certificate in DER form, as lower-case hexadecimal digits."""
    return hashlib.sha256(der).hexdigest()


def load(folder: Path, name: str) -> Identity:
    """The identity kept in ``folder``, made when there is none; ``name`` is the server's, for whoever looks at the certificate.

    A start that was killed in the middle leaves a key without a certificate, which nobody was told of: both are made anew.
    Raises :class:`HostFailure` when what lies there cannot be used.
    """
    key_file, certificate_file = folder / "key.pem", folder / "cert.pem"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not certificate_file.exists():
            _make(key_file, certificate_file, name)
        certificate = x509.load_pem_x509_certificate(certificate_file.read_bytes())
        key = serialization.load_pem_private_key(key_file.read_bytes(), password=None)
        os.chmod(key_file, 0o600)
    except (OSError, ValueError, TypeError) as error:
        raise _unusable(folder, error) from error
    if key.public_key() != certificate.public_key():
        raise _unusable(folder, "key and certificate do not belong together")
    return Identity(key_file, certificate_file, fingerprint(certificate.public_bytes(serialization.Encoding.DER)))


def _unusable(folder: Path, why: object) -> HostFailure:
    return HostFailure(
        f"the identity in {folder} cannot be used: {why}", hint="remove key.pem and cert.pem there and restart the worker: it makes a new one", code="wire_identity"
    )


def _make(key_file: Path, certificate_file: Path, name: str) -> None:
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    certificate = _sign(name or "server", key.public_key(), x509.random_serial_number(), issuer=False)
    _write(key_file, private, 0o600)
    _write(certificate_file, certificate.public_bytes(serialization.Encoding.PEM), 0o644)


def _write(path: Path, content: bytes, mode: int) -> None:
    """A whole file or none, and on the disk before it counts."""
    part = path.with_name(f".{path.name}.new")
    part.unlink(missing_ok=True)
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


@cache
def _issuer_key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(_PUBLIC_WORDS).digest())


@cache
def _issuer() -> bytes:
    """The public issuer's certificate, the same on every server: Ed25519 signatures are deterministic (RFC 8032)."""
    return _sign(_ISSUER, _issuer_key().public_key(), 1, issuer=True).public_bytes(serialization.Encoding.DER)


def _sign(name: str, key: Ed25519PublicKey, serial: int, *, issuer: bool) -> x509.Certificate:
    return (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(_name(_ISSUER))
        .public_key(key)
        .serial_number(serial)
        .not_valid_before(_FROM)
        .not_valid_after(_UNTIL)
        .add_extension(x509.BasicConstraints(ca=issuer, path_length=0 if issuer else None), critical=True)
        .sign(_issuer_key(), None)
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])
