from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.formats import encode_canonical
from securesystemslib.signer import CryptoSigner

from edgectl.core.errors import TrustError
from edgectl.core.signed import Keys, _canonical, add_signatures, open_signed, seal

ONE, OTHER = CryptoSigner.generate_ed25519(), CryptoSigner.generate_ed25519()
BOTH = Keys({s.public_key.keyid: s.public_key for s in (ONE, OTHER)}, 2)
MOST = 1 << 20

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
numbers = st.floats(allow_nan=False, allow_infinity=False)


@given(st.dictionaries(texts, values, max_size=6))
def test_canonical_form_is_that_of_the_library(document: dict[str, Any]) -> None:
    assert _canonical(document, "x") == str(encode_canonical(document)).encode()


@pytest.mark.parametrize("text", ["\n", "\\", '"', "\x00", "\x7f", "é€😀", "\u2028", "/", "\\n"])
def test_canonical_form_of_what_json_escapes(text: str) -> None:
    document = {text: text, "a": [text]}
    assert _canonical(document, "x") == str(encode_canonical(document)).encode()


@given(st.dictionaries(texts, values | numbers, max_size=6))
def test_sealed_document_opens_as_it_was_also_with_a_second_signature(document: dict[str, Any]) -> None:
    both = add_signatures(seal(json.dumps(document).encode(), [ONE]), [OTHER])
    assert both == seal(json.dumps(document).encode(), [ONE, OTHER])
    opened = open_signed(both, BOTH, max_bytes=MOST, what="it")
    assert opened == json.loads(json.dumps(document), parse_float=str)


@pytest.mark.parametrize("number", ["1e2", "1E+2", "100.00", "-0.0", "1e-7"])
def test_number_that_python_writes_otherwise_is_signed_as_it_is_written(number: str) -> None:
    sealed = seal(f'{{"a":{number}}}'.encode(), [ONE, OTHER])
    assert add_signatures(sealed, [OTHER]) == sealed
    assert open_signed(sealed, BOTH, max_bytes=MOST, what="it") == {"a": repr(float(number))}


@pytest.mark.parametrize("document", [b"[1]", b"3", b'{"a": NaN}', b'{"a": 1e999}'])
def test_what_is_no_object_of_finite_numbers_is_not_sealed(document: bytes) -> None:
    with pytest.raises(TrustError):
        seal(document, [ONE])
