from __future__ import annotations

import base64
import json
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
import jwt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neptune_api.credentials import ApiToken
from neptune_api.server.errors import StatusError
from neptune_api.server.identity import Addresses, Caller, Identity, Secrets, calling_as, current_caller
from neptune_api.server.limits import MAX_TOKEN_BYTES
from neptune_api.server.store.database import Database, StoreError
from neptune_api.server.store.directory import Directory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from neptune_api.server.store.records import UserRecord

ADDRESSES = Addresses(http_url="http://127.0.0.1:8080", grpc_target="127.0.0.1:9090")
ELSEWHERE = Addresses(http_url="http://127.0.0.1:18080", grpc_target="127.0.0.1:19090")


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Directory]:
    database = Database(tmp_path)
    yield Directory(database)
    database.close()


@pytest.fixture
def secrets(directory: Directory, tmp_path: Path) -> Secrets:
    return Secrets.load(tmp_path)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def identity(directory: Directory, secrets: Secrets, clock: Clock) -> Identity:
    return Identity(directory, secrets, ADDRESSES, clock=clock)


@pytest.fixture
def alice(directory: Directory) -> UserRecord:
    return directory.create_user("alice")


@pytest.fixture
def claims(identity: Identity, alice: UserRecord) -> dict[str, Any]:
    """The claims of a good access token, to make forgeries from."""
    token = identity.exchange(identity.api_token_of(alice.id)).access_token
    return dict(jwt.decode(token, options={"verify_signature": False}))


@pytest.fixture
def sign(secrets: Secrets) -> Callable[[dict[str, Any]], str]:
    return lambda claims: jwt.encode(claims, secrets.derive("token"), algorithm="HS256")


def refusal(call: Callable[[], object]) -> StatusError:
    with pytest.raises(StatusError) as caught:
        call()
    return caught.value


def check_refused(identity: Identity, token: str, reason: str) -> None:
    error = refusal(lambda: identity.authenticate(f"Bearer {token}"))
    assert (error.code, error.reason) == (grpc.StatusCode.UNAUTHENTICATED, reason)
    assert token[:16] not in str(error.status())
    assert error.__cause__ is None
    assert error.__context__ is None


# Access tokens


def test_api_token_becomes_an_access_token_of_its_user(identity: Identity, alice: UserRecord, clock: Clock) -> None:
    pair = identity.exchange(identity.api_token_of(alice.id))

    assert pair.username == "alice"
    assert identity.authenticate(f"Bearer {pair.access_token}") == Caller(alice.id, alice.uuid, "alice")
    claims = jwt.decode(pair.access_token, options={"verify_signature": False})
    assert claims["iss"] == "http://127.0.0.1:8080/auth/realms/neptune" == identity.issuer
    assert claims["azp"] == "neptune-cli"
    assert claims["sub"] == alice.uuid
    assert claims["preferred_username"] == "alice"
    assert claims["iat"] == clock.now
    assert claims["exp"] == clock.now + 3600
    assert claims["jti"] != jwt.decode(pair.refresh_token, options={"verify_signature": False})["jti"]


@pytest.mark.parametrize(
    ("scheme", "authority", "expected"),
    [
        (None, None, "http://127.0.0.1:8080"),
        ("http", "example.org", "http://example.org"),
        ("https", "example.org:8443", "https://example.org:8443"),
        ("http", "[::1]:80", "http://[::1]:80"),
        ("http", "example.org/path", "http://127.0.0.1:8080"),
        ("http", "a@example.org", "http://127.0.0.1:8080"),
        ("http", "x\r\ny", "http://127.0.0.1:8080"),
        ("http", "", "http://127.0.0.1:8080"),
    ],
)
def test_base_url_is_the_one_that_callers_used(scheme: str | None, authority: str | None, expected: str) -> None:
    assert Addresses("http://127.0.0.1:8080", "x:1").base_url(scheme, authority) == expected
    chosen = Addresses("https://chosen", "x:1", chosen=True)
    assert chosen.base_url(scheme, authority) == "https://chosen"


def test_first_exchange_is_remembered(identity: Identity, directory: Directory, alice: UserRecord) -> None:
    assert not alice.has_logged_in
    identity.exchange(identity.api_token_of(alice.id))
    user = directory.user(alice.id)
    assert user is not None
    assert user.has_logged_in


@pytest.mark.parametrize("seen_before", [False, True])
def test_access_token_ends_at_its_expiry_to_the_second(
    identity: Identity, alice: UserRecord, clock: Clock, seen_before: bool
) -> None:
    token = identity.exchange(identity.api_token_of(alice.id)).access_token
    if seen_before:
        identity.authenticate(f"Bearer {token}")
        clock.now += 3599.999
        identity.authenticate(f"Bearer {token}")
        clock.now += 0.001
    else:
        clock.now += 3600
    check_refused(identity, token, "AUTHORIZATION_TOKEN_EXPIRED")


@pytest.mark.parametrize("seen_before", [False, True])
def test_tokens_survive_a_clock_that_is_set_back(
    identity: Identity, alice: UserRecord, clock: Clock, seen_before: bool
) -> None:
    pair = identity.exchange(identity.api_token_of(alice.id))
    if seen_before:
        identity.authenticate(f"Bearer {pair.access_token}")
    clock.now -= 24 * 3600
    assert identity.authenticate(f"Bearer {pair.access_token}").username == "alice"
    # One that is made meanwhile ends by the clock of its making.
    renewed = identity.refresh(pair.refresh_token).access_token
    assert identity.authenticate(f"Bearer {renewed}").username == "alice"
    clock.now += 24 * 3600
    check_refused(identity, renewed, "AUTHORIZATION_TOKEN_EXPIRED")
    clock.now += 3600
    check_refused(identity, pair.access_token, "AUTHORIZATION_TOKEN_EXPIRED")


def test_lifetimes_can_be_chosen(directory: Directory, secrets: Secrets, alice: UserRecord, clock: Clock) -> None:
    identity = Identity(directory, secrets, ADDRESSES, access_seconds=60, refresh_seconds=120, clock=clock)
    pair = identity.exchange(identity.api_token_of(alice.id))
    clock.now += 60
    check_refused(identity, pair.access_token, "AUTHORIZATION_TOKEN_EXPIRED")
    assert identity.refresh(pair.refresh_token).username == "alice"
    clock.now += 60
    assert refusal(lambda: identity.refresh(pair.refresh_token)).reason == "AUTHORIZATION_TOKEN_EXPIRED"


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic YWxpY2U6", "token"])
def test_missing_access_token_is_explained(identity: Identity, header: str | None) -> None:
    error = refusal(lambda: identity.authenticate(header))
    assert error.code is grpc.StatusCode.UNAUTHENTICATED
    assert error.reason == "UNAUTHORIZED"
    assert "authorization: Bearer" in error.message


def test_scheme_is_read_in_any_case(identity: Identity, alice: UserRecord) -> None:
    token = identity.exchange(identity.api_token_of(alice.id)).access_token
    assert identity.authenticate(f"bearer {token}").username == "alice"
    assert identity.authenticate(f"BEARER  {token} ").username == "alice"


# Forged access tokens


def test_unsigned_token_is_refused(identity: Identity, claims: dict[str, Any]) -> None:
    check_refused(identity, jwt.encode(claims, None, algorithm="none"), "JWT_VALIDATION_ERROR")


def test_token_with_another_algorithm_is_refused(identity: Identity, claims: dict[str, Any], secrets: Secrets) -> None:
    forged = jwt.encode(claims, secrets.derive("token") * 2, algorithm="HS512")
    check_refused(identity, forged, "JWT_VALIDATION_ERROR")


@pytest.mark.parametrize("purpose", ["api-key", "another"])
def test_token_signed_with_another_key_is_refused(
    identity: Identity, claims: dict[str, Any], secrets: Secrets, purpose: str
) -> None:
    forged = jwt.encode(claims, secrets.derive(purpose), algorithm="HS256")
    check_refused(identity, forged, "JWT_VALIDATION_ERROR")


@pytest.mark.parametrize("audience", ["another-server", "http://127.0.0.1:8080", ["another-server"], None])
def test_token_of_another_server_is_refused(
    identity: Identity, claims: dict[str, Any], sign: Callable[[dict[str, Any]], str], audience: object
) -> None:
    claims["aud"] = audience
    check_refused(identity, sign(claims), "JWT_VALIDATION_ERROR")


@pytest.mark.parametrize("claim", ["aud", "exp", "sub", "typ"])
def test_token_without_a_claim_is_refused(
    identity: Identity, claims: dict[str, Any], sign: Callable[[dict[str, Any]], str], claim: str
) -> None:
    del claims[claim]
    check_refused(identity, sign(claims), "JWT_VALIDATION_ERROR")


def test_token_of_an_unknown_user_is_refused(
    identity: Identity, claims: dict[str, Any], sign: Callable[[dict[str, Any]], str]
) -> None:
    claims["sub"] = "00000000-0000-4000-8000-000000000000"
    check_refused(identity, sign(claims), "JWT_VALIDATION_ERROR")


def test_token_with_changed_claims_is_refused(identity: Identity, alice: UserRecord) -> None:
    head, _, signature = identity.exchange(identity.api_token_of(alice.id)).access_token.split(".")
    changed = base64.urlsafe_b64encode(json.dumps({"sub": "bob"}).encode()).decode().rstrip("=")
    check_refused(identity, f"{head}.{changed}.{signature}", "JWT_VALIDATION_ERROR")


def test_refresh_token_does_not_open_calls(identity: Identity, alice: UserRecord) -> None:
    token = identity.exchange(identity.api_token_of(alice.id)).refresh_token
    check_refused(identity, token, "JWT_VALIDATION_ERROR")


def test_oversized_token_is_refused(identity: Identity, claims: dict[str, Any], sign: Callable[..., str]) -> None:
    check_refused(identity, sign({**claims, "more": "x" * MAX_TOKEN_BYTES}), "JWT_VALIDATION_ERROR")


def test_deeply_nested_header_is_refused(identity: Identity) -> None:
    header = base64.urlsafe_b64encode(b"[" * 3000).decode()
    check_refused(identity, f"{header}.e30.e30", "JWT_VALIDATION_ERROR")


any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    header=st.dictionaries(st.sampled_from(["alg", "typ", "kid", "crit", "b64"]), any_json) | any_json,
    payload=st.binary(),
    signature=st.binary(),
)
def test_nothing_but_a_refusal_comes_of_a_forged_token(
    identity: Identity, header: object, payload: bytes, signature: bytes
) -> None:
    parts = (json.dumps(header).encode(), payload, signature)
    token = ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts)
    assert refusal(lambda: identity.authenticate(f"Bearer {token}")).code is grpc.StatusCode.UNAUTHENTICATED


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters()))
def test_nothing_but_a_refusal_comes_of_any_text(identity: Identity, text: str) -> None:
    for call in (identity.authenticate, identity.refresh, identity.exchange):
        error = refusal(partial(call, text))
        assert error.code in {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.INVALID_ARGUMENT}


# API tokens


def test_api_token_says_where_the_server_is(identity: Identity, alice: UserRecord) -> None:
    token = ApiToken.parse(identity.api_token_of(alice.id))
    assert token.api_url == token.api_address == "http://127.0.0.1:8080"
    assert token.grpc_url == "grpc://127.0.0.1:9090"


def test_scheme_of_the_grpc_target_goes_into_the_token(
    directory: Directory, secrets: Secrets, alice: UserRecord
) -> None:
    addresses = Addresses(http_url="https://a.example:1", grpc_target="grpcs://a.example:2")
    token = ApiToken.parse(Identity(directory, secrets, addresses).api_token_of(alice.id))
    assert token.grpc_url == "grpcs://a.example:2"


def test_api_tokens_of_two_users_differ(identity: Identity, directory: Directory, alice: UserRecord) -> None:
    bob = directory.create_user("bob")
    assert identity.api_token_of(alice.id) != identity.api_token_of(bob.id)
    assert identity.exchange(identity.api_token_of(bob.id)).username == "bob"


def test_there_is_no_api_token_of_nobody(identity: Identity) -> None:
    with pytest.raises(LookupError):
        identity.api_token_of(4711)


@pytest.mark.parametrize(
    "key",
    [
        "",
        "0",
        "00000000000040008000000000000000" + "0" * 64,
        "\ud800",
        "alice",
        "00000000-0000-4000-8000-000000000000",
    ],
    ids=ascii,
)
def test_forged_api_key_is_refused(identity: Identity, alice: UserRecord, key: str) -> None:
    fields = {"api_url": "http://x", "api_address": "http://x", "api_key": key}
    token = base64.b64encode(json.dumps(fields).encode()).decode()
    error = refusal(lambda: identity.exchange(token))
    assert error.code is grpc.StatusCode.UNAUTHENTICATED
    assert token not in str(error.status())


def test_one_wrong_digit_makes_an_api_key_wrong(identity: Identity, directory: Directory, alice: UserRecord) -> None:
    directory.create_user("bob")
    token = ApiToken.parse(identity.api_token_of(alice.id))
    for place in (0, 31, 32, 95):
        wrong = "0" if token.api_key[place] != "0" else "1"
        key = token.api_key[:place] + wrong + token.api_key[place + 1 :]
        forged = ApiToken.mint(api_url=token.api_url, api_key=key).encode()
        assert refusal(partial(identity.exchange, forged)).code is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize(
    ("token", "problem"),
    [("", "is required"), ("A" * (MAX_TOKEN_BYTES + 1), "4,097 bytes long, the limit is 4,096")],
)
def test_missing_or_oversized_api_token_is_an_invalid_argument(identity: Identity, token: str, problem: str) -> None:
    error = refusal(lambda: identity.exchange(token))
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    [(field, description)] = error.violations
    assert field == "api_token"
    assert problem in description


@pytest.mark.parametrize(
    ("token", "problem"),
    [("!!!", "not base64"), ("bm90IGpzb24=", "JSON object"), ("A" * MAX_TOKEN_BYTES, "JSON object")],
)
def test_undecodable_api_token_is_refused(identity: Identity, token: str, problem: str) -> None:
    error = refusal(lambda: identity.exchange(token))
    assert (error.code, error.reason) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHORIZED")
    assert problem in error.message


# Refreshing and revoking


def test_refresh_gives_a_new_pair(identity: Identity, alice: UserRecord, clock: Clock) -> None:
    first = identity.exchange(identity.api_token_of(alice.id))
    clock.now += 4000
    second = identity.refresh(first.refresh_token)
    assert second.username == "alice"
    assert identity.authenticate(f"Bearer {second.access_token}").username == "alice"
    assert second.refresh_token != first.refresh_token
    assert identity.refresh(second.refresh_token).username == "alice"


def test_access_token_does_not_refresh(identity: Identity, alice: UserRecord) -> None:
    token = identity.exchange(identity.api_token_of(alice.id)).access_token
    error = refusal(lambda: identity.refresh(token))
    assert (error.code, error.reason) == (grpc.StatusCode.UNAUTHENTICATED, "JWT_VALIDATION_ERROR")


def test_revoking_ends_api_and_refresh_tokens_but_not_access_tokens(identity: Identity, alice: UserRecord) -> None:
    old = identity.api_token_of(alice.id)
    pair = identity.exchange(old)

    identity.revoke(alice.id)

    assert refusal(lambda: identity.exchange(old)).code is grpc.StatusCode.UNAUTHENTICATED
    refused = refusal(lambda: identity.refresh(pair.refresh_token))
    assert refused.code is grpc.StatusCode.UNAUTHENTICATED
    assert "revoked" in refused.message
    assert identity.authenticate(f"Bearer {pair.access_token}").username == "alice"
    assert identity.exchange(identity.api_token_of(alice.id)).username == "alice"


def test_revoking_one_user_leaves_the_others(identity: Identity, directory: Directory, alice: UserRecord) -> None:
    token = identity.api_token_of(directory.create_user("bob").id)
    identity.revoke(alice.id)
    assert identity.exchange(token).username == "bob"


# Restarts


def test_tokens_outlive_a_restart_on_other_ports(
    identity: Identity, directory: Directory, alice: UserRecord, tmp_path: Path, clock: Clock
) -> None:
    api_token = identity.api_token_of(alice.id)
    pair = identity.exchange(api_token)

    restarted = Identity(directory, Secrets.load(tmp_path), ELSEWHERE, clock=clock)

    assert restarted.authenticate(f"Bearer {pair.access_token}").username == "alice"
    assert restarted.refresh(pair.refresh_token).username == "alice"
    assert restarted.exchange(api_token).username == "alice"
    assert ApiToken.parse(restarted.api_token_of(alice.id)).api_key == ApiToken.parse(api_token).api_key


def test_restart_on_the_same_ports_gives_the_same_api_token(
    identity: Identity, directory: Directory, alice: UserRecord, tmp_path: Path
) -> None:
    restarted = Identity(directory, Secrets.load(tmp_path), ADDRESSES)
    assert restarted.api_token_of(alice.id) == identity.api_token_of(alice.id)


def test_servers_with_other_secrets_refuse_each_others_tokens(
    identity: Identity, directory: Directory, alice: UserRecord, tmp_path: Path, clock: Clock
) -> None:
    api_token = identity.api_token_of(alice.id)
    pair = identity.exchange(api_token)
    (tmp_path / "secrets.json").unlink()
    other = Identity(directory, Secrets.load(tmp_path), ADDRESSES, clock=clock)
    check_refused(other, pair.access_token, "JWT_VALIDATION_ERROR")
    assert refusal(lambda: other.refresh(pair.refresh_token)).code is grpc.StatusCode.UNAUTHENTICATED
    assert refusal(lambda: other.exchange(api_token)).code is grpc.StatusCode.UNAUTHENTICATED


# Secrets


def test_secrets_are_for_their_owner_only(secrets: Secrets, tmp_path: Path) -> None:
    path = tmp_path / "secrets.json"
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    assert Secrets.load(tmp_path) == secrets
    assert path.stat().st_mode & 0o777 == 0o600


def test_secrets_stay_out_of_reprs_and_of_the_database(
    identity: Identity, secrets: Secrets, alice: UserRecord, tmp_path: Path
) -> None:
    token = identity.api_token_of(alice.id)
    pair = identity.exchange(token)
    key = ApiToken.parse(token).api_key
    assert secrets.signing_key.hex() not in repr(secrets)
    assert repr(secrets.signing_key) not in repr(secrets)
    stored = b"".join(path.read_bytes() for path in tmp_path.glob("store.sqlite3*"))
    assert alice.uuid.encode() in stored
    for secret in (key, key[32:], token, pair.access_token, pair.refresh_token, secrets.signing_key.hex()):
        assert secret.encode() not in stored
    assert secrets.signing_key not in stored


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"server_id": 1, "signing_key": "00"}',
        '{"server_id": "x", "signing_key": "00"}',
        '{"server_id": "00000000-0000-4000-8000-000000000000", "signing_key": "00"}',
        '{"server_id": "00000000-0000-4000-8000-000000000000", "signing_key": "no hex"}',
    ],
)
def test_damaged_secrets_are_explained(tmp_path: Path, content: str) -> None:
    (tmp_path / "secrets.json").write_text(content)
    with pytest.raises(StoreError, match="is damaged: restore it from a backup, or delete it"):
        Secrets.load(tmp_path)


def test_folder_that_takes_no_secrets_is_explained(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be used: No such file or directory"):
        Secrets.load(tmp_path / "missing")


# Callers


def test_caller_is_known_inside_its_call_only() -> None:
    alice, bob = Caller(1, "a", "alice"), Caller(2, "b", "bob")
    with pytest.raises(LookupError):
        current_caller()
    with calling_as(alice):
        assert current_caller() == alice
        with calling_as(bob):
            assert current_caller() == bob
        assert current_caller() == alice
    with pytest.raises(LookupError):
        current_caller()


def test_remembered_tokens_are_bounded(identity: Identity, alice: UserRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity._verified, "_most", 3)
    tokens = [identity.exchange(identity.api_token_of(alice.id)).access_token for _ in range(5)]
    for token in (*tokens, *tokens):
        assert identity.authenticate(f"Bearer {token}").username == "alice"
        assert len(identity._verified) <= 3
