from hypothesis import given

from appliance.mqtt.access import Users, user_line
from appliance.mqtt.topics import covers, matches
from tests.unit.test_topics import filters, topics


@given(filters, filters, topics)
def test_what_covers_a_filter_matches_all_its_topics(allowed: str, wanted: str, topic: str) -> None:
    if covers(allowed, wanted) and matches(wanted, topic):
        assert matches(allowed, topic)


def test_what_covers() -> None:
    for allowed, wanted in [
        ("#", "a/#"),
        ("a/#", "a"),
        ("a/+/b", "a/+/b"),
        ("+", "a"),
        ("a/#", "a/b/+"),
        ("$S/#", "$S/x"),
    ]:
        assert covers(allowed, wanted), (allowed, wanted)
    for allowed, wanted in [("#", "$S/x"), ("+", "#"), ("a/+", "a/#"), ("a/b", "a/+"), ("a/+", "a"), ("a", "a/b")]:
        assert not covers(allowed, wanted), (allowed, wanted)


def test_a_password_is_kept_as_a_salted_hash() -> None:
    one, two = user_line("plc", "secret"), user_line("plc", "secret")
    assert one != two
    assert "secret" not in one
    assert one.startswith("plc:scrypt:16384:8:1:")


def test_a_password_that_was_right_is_known_the_next_time() -> None:
    from pathlib import Path
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        path = Path(folder, "users")
        path.write_text(user_line("plc", "secret"))
        users = Users.read(path)
    assert not users.proven("plc", b"secret")
    assert not users.check("plc", b"wrong")
    assert users.check("plc", b"secret")
    assert users.proven("plc", b"secret")
    assert not users.proven("plcs", b"ecret")
    assert not users.proven("plc", b"wrong")
