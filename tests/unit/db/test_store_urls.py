"""A URL of a store is good as a whole, or one sentence says what to write and shows no part of a password."""

from __future__ import annotations

from pathlib import Path

import pytest

from ext_authz.db.store_urls import (
    ensure_postgres_url,
    ensure_redis_url,
    redis_database,
    sentinels_of,
    without_credentials,
)
from tests.e2e.server.certificates import Authority

GOOD_POSTGRES = [
    "postgresql://db",
    "postgres://tollgate:hunter2@db:5432/tollgate",
    "postgresql://tollgate:p%2Fa%3Fs%23s%40w%25@db/tollgate",
    "postgresql://u:a:b@db/d",
    "postgresql://u@[::1]:5432/d",
    "postgresql://one:5432,two:5433/d?target_session_attrs=read-write",
    "postgresql:///d?host=/var/run/postgresql&sslmode=disable",
    "postgresql://db/d?application_name=x&options=-c%20statement_timeout%3D5&connect_timeout=3&sslrootcert=system",
]
GOOD_REDIS = [
    "redis://cache",
    "redis://cache:6379/0",
    "redis://:hunter2@cache/15",
    "redis://tollgate:p%2Fa%3Fs%23s%40w%25@cache:6379/0",
    "redis://[::1]:6379?db=3&socket_keepalive=yes",
    "rediss://cache:6380/0?ssl_cert_reqs=none&ssl_check_hostname=false",
    "redis+sentinel://one:26379,two/mymaster",
    "rediss+sentinel://u:p%2Cw@one,[::1]:5000/my-master.1/7?ssl_cert_reqs=none&sentinel_username=s&sentinel_password=p%26",
    "unix:///run/redis/redis.sock",
    "unix://:hunter2@/run/redis.sock?db=2",
]


@pytest.mark.parametrize("url", GOOD_POSTGRES)
def test_good_urls_of_postgres(url: str) -> None:
    ensure_postgres_url(url)


@pytest.mark.parametrize("url", GOOD_REDIS)
def test_good_urls_of_redis(url: str) -> None:
    ensure_redis_url(url)


def test_the_database_of_a_url() -> None:
    assert [redis_database(url) for url in GOOD_REDIS] == [0, 0, 15, 0, 3, 0, 0, 7, 0, 2]


def test_the_parts_of_a_url_with_sentinel() -> None:
    found = sentinels_of(next(url for url in GOOD_REDIS if url.startswith("rediss+sentinel")))
    assert found.sentinels == [("one", 26379), ("::1", 5000)]
    assert (found.name, found.credentials) == ("my-master.1", {"username": "s", "password": "p&"})
    assert found.node_url == "rediss://u:p%2Cw@one/7?ssl_cert_reqs=none"


@pytest.mark.parametrize("url", GOOD_REDIS)
def test_nothing_secret_is_shown(url: str) -> None:
    shown = without_credentials(url)
    assert not any(part in shown for part in ("hunter2", "p%2", "u:p", "sentinel_password", "p%26"))
    assert shown != "***"


def refusal(url: str) -> str:
    with pytest.raises(ValueError) as wrong:  # noqa: PT011 - its text is under test
        (ensure_postgres_url if url.startswith("postgres") else ensure_redis_url)(url)
    message = str(wrong.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("scheme", ["postgresql", "redis", "rediss", "redis+sentinel"])
@pytest.mark.parametrize("delimiter", ["/", "?", "#", "@", "%", "[", "]", " ", "%zz", "/?#@", "@h/0?db=", "?db=1&"])
@pytest.mark.parametrize("before", ["hunter", "1234", ""])
def test_no_part_of_an_unescaped_password_is_repeated(scheme: str, delimiter: str, before: str) -> None:
    """What stands before the delimiter may pass for a port, what stands behind it for a host, a path or an option."""
    for secret in ("s3cret", "s3cret=x", "s3cret=x&t0ken=y"):
        message = refusal(f"{scheme}://tollgate:{before}{delimiter}{secret}@store/0")
        assert "%2F" in message, "says how to write it"
        assert not any(part in message for part in ("s3cret", "t0ken", "hunter", "1234"))


@pytest.mark.parametrize("url", ["postgresql://u:9?s3cret", "postgresql://h/d?s3cret=x", "redis://h/0?s3cret=x"])
def test_an_option_that_is_similar_to_no_other_is_not_repeated(url: str) -> None:
    message = refusal(url)
    assert message.startswith("after the ? there is an option that")
    assert "s3cret" not in message


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql://h/d?sslmod=require", "libpq knows no option sslmod: did you mean sslmode?"),
        (
            "postgresql://h/d?sslmode=none",
            "the option sslmode must be one of disable, allow, prefer, require, verify-ca,",
        ),
        ("postgresql://h/d?connect_timeout=soon", "the option connect_timeout must be a whole number"),
        ("postgresql://h/d?sslrootcert=/nowhere", "the file that the option sslrootcert names cannot be read"),
        ("postgresql://h/d?sslmode=require&sslmode=allow", "the option sslmode is given twice"),
        ("postgresql://h/d?application_name=%00", "is not a URL of the form postgresql://"),
        ("postgresql://h:65536/d", "is not a URL of the form postgresql://"),
        ("postgresql://h:0/d", "is not a URL of the form postgresql://"),
        ("postgresql://h/d/e", "is not a URL of the form postgresql://"),
        ("redis://h:port/0", "is not a URL of the form redis://"),
        ("redis://h/mydb", "the database behind the / is a number, such as redis://host:6379/0"),
        ("redis://h/-1", "the database behind the / is a number"),
        ("redis://h/0/1", "is not a URL of the form redis://"),
        ("rediss://h?ssl_certs_reqs=none", "redis-py knows no option ssl_certs_reqs: did you mean ssl_cert_reqs?"),
        ("redis://h?ssl_certs_reqs=none", "redis-py knows no option ssl_certs_reqs: did you mean ssl_cert_reqs?"),
        ("redis://h?ssl_cert_reqs=none", "the option ssl_cert_reqs is for rediss:// only"),
        ("rediss://h?ssl_cert_reqs=nothing", "redis-py does not take the value of the option ssl_cert_reqs"),
        ("redis://h?db=x", "redis-py does not take the value of the option db"),
        ("rediss://h?ssl_ca_certs=/nowhere", "the file that the option ssl_ca_certs names cannot be read"),
        (f"rediss://h?ssl_ca_certs={__file__}", "ssl_ca_certs, ssl_certfile and ssl_keyfile do not name PEM files"),
        ("redis://h?decode_responses=true", "after the ? there is an option that redis-py does not know"),
        ("redis+sentinel://one,two", "behind the Sentinels comes the name of their primary"),
        ("redis+sentinel://one,two/0", "behind the Sentinels comes the name of their primary"),
        ("redis+sentinel://one/my~master/0", "behind the Sentinels comes the name of their primary"),
        ("redis+sentinel://one/mymaster/first", "the database behind the / is a number"),
        ("redis+sentinel://one,,two/mymaster", "a Sentinel has no host"),
        ("redis+sentinel://one:99999/mymaster", "is not a URL of the form redis://"),
        ("redis-sentinel://one/mymaster", "is not a URL of the form redis://"),
        ("redis://one:26379,two:26379/mymaster", "is not a URL of the form redis://"),
        ("redis+sentinel://one/m?sentinel_user=x", "redis-py knows no option sentinel_user: did you mean sentinel_us"),
        ("redis+sentinel://one/m?sentinel_username=x", "the option sentinel_username needs sentinel_password"),
        (
            "redis+sentinel://one/m?sentinel_password=x&sentinel_password=y",
            "the option sentinel_password is given twice",
        ),
        ("redis+sentinel://one/m?port=1", "the option port is of no use with Sentinel"),
        ("redis://h?sentinel_password=x", "the option sentinel_password is for redis+sentinel:// only"),
        ("unix://run/redis.sock", "is not a URL of the form redis://"),
        ("http://h", "is not a URL of the form redis://"),
    ],
)
def test_the_sentence_names_the_error(url: str, message: str) -> None:
    assert refusal(url).startswith(message)


def test_the_files_of_a_private_authority(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "private")
    cert, key = authority.issue("tollgate")
    _, other = authority.issue("other")
    good = f"rediss://h?ssl_ca_certs={authority.certificate}&ssl_certfile={cert}&ssl_keyfile="
    ensure_redis_url(f"{good}{key}")
    assert "do not name PEM files that fit" in refusal(f"{good}{other}")
