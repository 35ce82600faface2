"""A signed document that people can read: ``{"signed": {…}, "signatures": [{"keyid", "sig"}]}``, the form of
TUF metadata.

The signature is over OLPC canonical JSON (securesystemslib). That form has no fractions: here a number with a
fraction or an exponent is signed as the text that stands in the document, so no two machines can disagree
about how a float is written.

Pure. Not here: where keys come from, and what a document means.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from securesystemslib.exceptions import FormatError, UnverifiedSignatureError, VerificationError
from securesystemslib.formats import encode_canonical
from securesystemslib.signer import Key, Signature, Signer

from edgectl.core.errors import TrustError

__all__ = ["Keys", "add_signatures", "is_signed", "open_signed", "seal", "valid_signatures"]

_MAX_SIGNATURES = 32
_SORTED = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)


@dataclass(frozen=True)
class Keys:
    """Who may sign: public keys by key id, and how many of them must."""

    keys: Mapping[str, Key]
    threshold: int


def seal(document: bytes, signers: Iterable[Signer]) -> bytes:
    """Put JSON ``document`` (an object) into an envelope, signed by each of ``signers``."""
    # Its numbers as every later signer of ours would write them.
    text = json.dumps(json.loads(document), separators=(",", ":"))
    signed, _ = _parts(f'{{"signed":{text},"signatures":[]}}'.encode(), "document")
    data = _canonical(signed, "document")
    signatures = {s.keyid: s.signature for s in (signer.sign(data) for signer in signers)}
    listed = json.dumps([{"keyid": k, "sig": v} for k, v in signatures.items()], separators=(",", ":"))
    return f'{{"signed":{text},"signatures":{listed}}}'.encode()


def add_signatures(payload: bytes, signers: Iterable[Signer]) -> bytes:
    """The envelope with the signatures of ``signers`` added or replaced. Raises :class:`TrustError` if it
    is no envelope."""
    signed, signatures = _parts(payload, "document")
    data = _canonical(signed, "document")
    for signer in signers:
        signature = signer.sign(data)
        signatures[signature.keyid] = signature
    envelope = {
        "signed": json.loads(payload)["signed"],
        "signatures": [{"keyid": s.keyid, "sig": s.signature} for s in signatures.values()],
    }
    written = json.dumps(envelope, separators=(",", ":")).encode()
    if _canonical(_parts(written, "document")[0], "document") != data:
        raise TrustError(
            "the document was not written by edgectl: its numbers would change with a second signature"
        )
    return written


def is_signed(payload: bytes) -> bool:
    """Whether this is an envelope at all; nothing is said about its signatures."""
    try:
        found = json.loads(payload)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and "signed" in found and "signatures" in found


def open_signed(payload: bytes, allowed: Keys, *, max_bytes: int, what: str) -> dict[str, Any]:
    """The document inside, once enough of ``allowed`` have signed it. Numbers with a fraction come as their
    text.

    Raises :class:`TrustError` for anything else: too large, not JSON, not an envelope, signatures missing or
    wrong.
    """
    if len(payload) > max_bytes:
        raise TrustError(f"{what} has {len(payload)} bytes, more than the {max_bytes} allowed")
    signed, signatures = _parts(payload, what)
    found = valid_signatures(_canonical(signed, what), signatures, allowed)
    if len(found) < allowed.threshold:
        if not signatures:
            raise TrustError(
                f"{what} is not signed", hint="the root metadata of this fleet name a director, who signs it"
            )
        raise TrustError(f"{what} is signed by {len(found)} of the {allowed.threshold} keys that it needs")
    return signed


def valid_signatures(data: bytes, signatures: Mapping[str, Signature], allowed: Keys) -> frozenset[str]:
    """Ids of the keys among ``allowed`` whose signature over ``data`` is right."""
    good = set()
    for keyid, signature in signatures.items():
        key = allowed.keys.get(keyid)
        try:
            if key is not None:
                key.verify_signature(signature, data)
                good.add(keyid)
        except (UnverifiedSignatureError, VerificationError):
            continue
    return frozenset(good)


def _parts(payload: bytes, what: str) -> tuple[dict[str, Any], dict[str, Signature]]:
    try:
        # Parsed once, and what was verified is what is used: two parsers could disagree, e.g. about a key
        # that stands there twice.
        found = json.loads(payload, parse_float=str, parse_constant=_no_constant)
    except (ValueError, RecursionError) as e:
        raise TrustError(f"{what} is not valid JSON") from e
    if not isinstance(found, dict) or not isinstance(found.get("signed"), dict):
        raise TrustError(
            f"{what} is not signed", hint="the root metadata of this fleet name a director, who signs it"
        )
    listed = found.get("signatures")
    if not isinstance(listed, list) or len(listed) > _MAX_SIGNATURES:
        raise TrustError(f"{what} has no list of at most {_MAX_SIGNATURES} signatures")
    signatures = {}
    for entry in listed:
        keyid, sig = (entry.get("keyid"), entry.get("sig")) if isinstance(entry, dict) else (None, None)
        if not isinstance(keyid, str) or not isinstance(sig, str) or keyid in signatures:
            raise TrustError(f"{what} has a malformed signature, or two signatures of one key")
        signatures[keyid] = Signature(keyid, sig)
    return found["signed"], signatures


def _canonical(signed: dict[str, Any], what: str) -> bytes:
    """``signed``: as :func:`_parts` parsed it, without fractions."""
    try:
        # The same text, faster, unless there is something to escape: there the forms differ.
        text = _SORTED.encode(signed)
        return (text if "\\" not in text else str(encode_canonical(signed))).encode()
    except (FormatError, RecursionError, UnicodeEncodeError) as e:
        raise TrustError(f"{what} cannot be brought into canonical form") from e


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")
