"""The certificate authority of one run: mutual TLS on both addresses from the first byte.

Keys live in the memory of the processes that need them and nowhere else. Certificates of real racks come from one
lasting authority instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

VALID = timedelta(days=3650)
"""Boards without a clock battery start anywhere in time; the authority is forgotten with the run all the same."""


@dataclass(frozen=True)
class Credentials:
    """One party's key and certificate, and the authority it believes; all PEM."""

    name: str
    key: bytes
    certificate: bytes
    authority: bytes


class RunAuthority:
    """Issues one certificate per party; the common name and the only DNS name are the node's name."""

    def __init__(self, run: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"skyrack run {run}")])
        self._certificate = (
            self._builder(self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self._key, hashes.SHA256())
        )

    def issue(self, name: str) -> Credentials:
        """Credentials for a node or for the controller."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = (
            self._builder(subject, key.public_key())
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return Credentials(
            name,
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
            certificate.public_bytes(serialization.Encoding.PEM),
            self._certificate.public_bytes(serialization.Encoding.PEM),
        )

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        # Anchored far before now: a time-travel guest and a board without a battery may both think it is 1970.
        start = datetime(1970, 1, 2, tzinfo=timezone.utc)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(datetime.now(timezone.utc) + VALID)
        )
