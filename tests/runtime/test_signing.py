from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamadeploy.exceptions import ConfigurationError, SignatureError
from llamadeploy.signing import KeyRing

RING = KeyRing.generate()


@given(st.text(), st.text(alphabet=st.characters(exclude_characters="\0")))
def test_signed_text_verifies_and_travels_as_documented(payload: str, kind: str) -> None:
    signed = RING.sign(kind, payload)
    version, key_id, _, tail = signed.split(".", 3)
    assert (version, key_id, tail) == ("v1", RING.key_ids[0], payload)
    assert KeyRing.parse(RING.dump()).verify(kind, signed) == payload


@given(st.text(min_size=1), st.integers(min_value=0), st.characters(codec="utf-8"))
def test_a_changed_character_is_noticed(payload: str, position: int, character: str) -> None:
    signed = RING.sign("context", payload)
    position %= len(signed)
    changed = signed[:position] + character + signed[position + 1 :]
    if changed != signed:
        with pytest.raises(SignatureError):
            RING.verify("context", changed)


@given(st.text())
def test_text_that_was_never_signed_is_a_signature_error(text: str) -> None:
    with pytest.raises(SignatureError):
        RING.verify("context", text)
    with pytest.raises(SignatureError):
        RING.verify("context", f"v1.{RING.key_ids[0]}.{text}.{text}")


def test_kind_is_bound_and_cannot_be_shifted_into_the_payload() -> None:
    with pytest.raises(SignatureError):
        RING.verify("snapshot", RING.sign("context", "{}"))
    with pytest.raises(SignatureError):
        RING.verify("con", RING.sign("context", "{}").replace("{}", "text{}"))
    with pytest.raises(ValueError, match="NUL"):
        RING.sign("a\0b", "{}")


def test_rotation_signs_with_the_new_key_and_still_verifies_the_old() -> None:
    old = KeyRing.generate()
    new = old.rotated()
    assert new.verify("context", old.sign("context", "x")) == "x"
    assert new.key_ids[1:] == old.key_ids
    with pytest.raises(SignatureError, match="not in the key ring"):
        old.verify("context", new.sign("context", "x"))


def test_same_id_with_another_key_does_not_verify() -> None:
    one, two = KeyRing([("k", b"a" * 32)]), KeyRing([("k", b"b" * 32)])
    with pytest.raises(SignatureError, match="does not fit"):
        two.verify("context", one.sign("context", "x"))


def test_repr_and_errors_show_no_key() -> None:
    ring = KeyRing.generate()
    key = ring.dump().split(":")[1]
    assert key not in repr(ring) and ring.key_ids[0] in repr(ring)
    with pytest.raises(ConfigurationError) as caught:
        KeyRing.parse(f"one:{key},two:{key[:5]}!{key[5:]}")
    assert key[:5] not in str(caught.value) and caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "there is none"),
        ("abc", "entry 1 has no ':'"),
        ("a:" + "A" * 43 + ",b:AAAA", "entry 2 has 3 bytes"),
        ("a:" + "A" * 43 + ",a:" + "A" * 43, "entry 2 repeats the id 'a'"),
        ("a.b:" + "A" * 43, "id of entry 1"),
        ("a:*" + "A" * 43, "entry 1 is not base64url"),
    ],
)
def test_bad_rings_are_named_by_position(text: str, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        KeyRing.parse(text)


def test_parse_takes_lines_and_padding() -> None:
    ring = KeyRing.parse("a:" + "A" * 43 + "=\n b:" + "B" * 42 + "A\n")
    assert ring.key_ids == ("a", "b")
