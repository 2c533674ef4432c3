"""API tokens: what parses, what does not and why, and that nothing shows them."""

from __future__ import annotations

import base64
import json
import traceback
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neptune_api.credentials import MAX_TOKEN_BYTES, ApiToken, InvalidTokenError, mask, redact
from neptune_api.exceptions import UnauthorizedException
from tests.unit.wire import jwt

KEY = "c2VjcmV0-key-of-ada"
FIELDS = {"api_address": "https://neptune.example", "api_url": "https://neptune.example/api", "api_key": KEY}


def encoded(fields: Any) -> str:
    return base64.b64encode(json.dumps(fields).encode()).decode()


def test_a_token_of_the_web_application_parses() -> None:
    token = ApiToken.parse(encoded(FIELDS))
    assert token == ApiToken(api_key=KEY, api_url=FIELDS["api_url"], api_address=FIELDS["api_address"])
    assert token.grpc_url is None


@pytest.mark.parametrize(
    "change",
    [
        lambda text: f"  {text}\n",
        lambda text: f'"{text}"',
        lambda text: f"' {text} '",
        lambda text: text.rstrip("="),
        lambda text: text.replace("+", "-").replace("/", "_"),
        lambda text: "\n".join(text[i : i + 20] for i in range(0, len(text), 20)),
    ],
)
def test_what_copying_does_to_a_token_is_forgiven(change: Any) -> None:
    fields = FIELDS | {"api_key": "ÿþ?>~" * 3, "grpc_url": "grpcs://h:1"}
    text = encoded(fields)
    assert ApiToken.parse(change(text)) == ApiToken.parse(text)


def test_encode_gives_back_what_was_parsed_unknown_keys_and_all() -> None:
    text = encoded(FIELDS | {"hint": 7})
    assert ApiToken.parse(f" '{text}'").encode() == text


@given(key=st.text(min_size=1), url=st.text(min_size=1), grpc_url=st.none() | st.text(min_size=1))
def test_a_minted_token_survives_encoding(key: str, url: str, grpc_url: str | None) -> None:
    token = ApiToken.mint(api_key=key, api_url=url, grpc_url=grpc_url)
    if len(token.encode()) <= MAX_TOKEN_BYTES:
        assert ApiToken.parse(token.encode()) == token


def test_minted_keys_differ() -> None:
    assert ApiToken.mint(api_url="u").api_key != ApiToken.mint(api_url="u").api_key


def test_either_address_stands_for_the_other() -> None:
    assert ApiToken.parse(encoded({"api_key": "k", "api_address": "a"})).api_url == "a"
    assert ApiToken.parse(encoded({"api_key": "k", "api_url": "u"})).api_address == "u"


BAD = {
    "": "it is empty",
    "  \n ": "it is empty",
    "''": "it is empty",
    "garbage!": "it is not base64",
    "żółw": "it is not base64",
    "a": "it is not base64",
    "garbage": "does not decode to a JSON object",
    base64.b64encode(b"\xff\xfe").decode(): "does not decode to a JSON object",
    base64.b64encode(b"[" * 3000).decode(): "does not decode to a JSON object",
    encoded([1]): "does not decode to a JSON object",
    encoded(FIELDS | {"api_key": 7}): "its api_key is not a string",
    encoded(FIELDS | {"grpc_url": ["x"]}): "its grpc_url is not a string",
    encoded({"api_url": "u"}): "it has no api_key",
    encoded(FIELDS | {"api_key": ""}): "it has no api_key",
    encoded({"api_key": KEY}): "neither api_url nor api_address",
    encoded({"api_key": KEY, "api_url": None}): "neither api_url nor api_address",
    "e" * (MAX_TOKEN_BYTES + 1): "it has 4,097 characters, the limit is 4,096",
}


@pytest.mark.parametrize(("text", "problem"), BAD.items(), ids=BAD.values())
def test_what_is_no_token_says_so_and_what_one_looks_like(text: str, problem: str) -> None:
    with pytest.raises(InvalidTokenError) as caught:
        ApiToken.parse(text, source="NEPTUNE_API_TOKEN")
    assert problem in str(caught.value)
    assert "from NEPTUNE_API_TOKEN" in str(caught.value)
    assert "base64 text of a JSON object with the keys api_address, api_url and api_key" in str(caught.value)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, UnauthorizedException)


@pytest.mark.parametrize("text", [text for text in BAD if len(text.strip(" \n'")) > 4])
def test_the_error_never_shows_the_text(text: str) -> None:
    with pytest.raises(InvalidTokenError) as caught:
        ApiToken.parse(text)
    error = caught.value
    assert error.__context__ is None
    assert error.__cause__ is None
    printed = "".join(traceback.format_exception(error)) + repr(error) + str(error.args)
    assert text not in printed
    assert KEY not in printed


def test_no_form_of_a_token_shows_its_key() -> None:
    token = ApiToken.parse(encoded(FIELDS))
    for shown in (repr(token), str(token), f"{token}", repr([token]), repr(token.encode()), repr({"t": token.text})):
        assert KEY not in shown
        assert token.encode() not in shown


@given(before=st.text(), after=st.text(alphabet=st.characters(exclude_characters="=")))
def test_redact_removes_tokens_wherever_they_stand(before: str, after: str) -> None:
    for token in (encoded(FIELDS), jwt(), json.dumps(FIELDS)):
        known = () if token != json.dumps(FIELDS) else (token,)
        assert token not in redact(before + token + after, *known)


def test_redact_leaves_other_text_alone() -> None:
    text = "run RUN-17 of ada/digits: step 3 is 0.25 (eyJ is how tokens start)"
    assert redact(text) == text


def test_redact_removes_bearer_headers_and_known_secrets() -> None:
    assert redact("Authorization: Bearer opaque-7 failed") == "Authorization: Bearer <redacted> failed"
    assert redact("token s3cret and s3cret-longer", "s3cret", "s3cret-longer", "") == (
        "token <redacted> and <redacted>"
    )


def test_mask_keeps_the_length() -> None:
    data = b"\x0a\x05" + jwt().encode() + b"\x00s3cret\xff"
    masked = mask(data, "s3cret")
    assert len(masked) == len(data)
    assert b"s3cret" not in masked
    assert jwt().encode()[:20] not in masked
    assert masked.startswith(b"\x0a\x05*")
