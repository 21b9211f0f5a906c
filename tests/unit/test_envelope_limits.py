"""A certificate that allows some service names only: what its holder may state, and what not."""

from __future__ import annotations

import msgspec
import pytest
from builders import Authority, Identity, announced, deregistered, instance, left, line, registered
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from hypothesis import given
from hypothesis import strategies as st

from pmoves_mesh.core.event import Event
from pmoves_mesh.core.limits import attributes
from pmoves_mesh.errors import ServiceNotAllowed

PATTERNS = ("whisper-*", "rag")
AUTHORITY = Authority()


def limited(name: str) -> Identity:
    """Issues an identity as any other, but for the patterns in its subject."""
    whole = AUTHORITY.identity(name, admit=False)
    common = x509.NameAttribute(x509.NameOID.COMMON_NAME, name)
    builder = x509.CertificateBuilder(
        issuer_name=whole.certificate.issuer,
        subject_name=x509.Name([common, *attributes(PATTERNS)]),
        public_key=whole.certificate.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=whole.certificate.not_valid_before_utc,
        not_valid_after=whole.certificate.not_valid_after_utc,
    )
    for extension in whole.certificate.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    issued = Identity(builder.sign(AUTHORITY.key, hashes.SHA256()), whole.key)
    assert AUTHORITY.trust.admit(issued.der).allow == PATTERNS
    return issued


ALPHA = limited("alpha")


@pytest.mark.parametrize(
    "event",
    [
        registered(1, instance("rag")),
        registered(1, instance("whisper-large")),
        announced(1, [line(1, "rag"), line(2, "whisper-small")], services_running=("rag",)),
        announced(1),
        left(1),
    ],
    ids=lambda event: type(event).__name__,
)
def test_a_name_that_the_certificate_allows_may_be_stated(event: Event):
    assert AUTHORITY.verified(event, ALPHA).event == event


@pytest.mark.parametrize(
    "event",
    [
        registered(1, instance("postgres")),
        registered(1, instance("whisper")),
        registered(1, instance("rag-2")),
        announced(1, [line(1, "rag"), line(2, "postgres")]),
        announced(1, services_running=("whisper-small", "postgres")),
    ],
    ids=lambda event: type(event).__name__,
)
def test_a_name_outside_the_certificates_limits_is_refused(event: Event):
    with pytest.raises(ServiceNotAllowed) as refused:
        AUTHORITY.verified(event, ALPHA)
    assert refused.value.reason == "service_not_allowed"


def test_what_may_no_longer_be_stated_may_still_be_taken_back():
    event = deregistered(1, instance("postgres"))
    assert AUTHORITY.verified(event, ALPHA).event == event


@given(st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True))
def test_no_name_but_those_allowed_ever_passes(name: str):
    event = registered(1, msgspec.structs.replace(instance(), name=name))
    if name == "rag" or name.startswith("whisper-"):
        AUTHORITY.verified(event, ALPHA)
    else:
        with pytest.raises(ServiceNotAllowed):
            AUTHORITY.verified(event, ALPHA)
