from appliance.mqtt.rates import ConnectionRates, Sparing


def test_a_burst_is_let_through_and_then_the_rate() -> None:
    rates = ConnectionRates(100, 2, burst=3)
    assert [rates.admit("a", 0.0) for _ in range(4)] == [True, True, True, False]
    assert not rates.admit("a", 0.4)
    assert rates.admit("a", 0.9)
    assert not rates.admit("a", 0.9)


def test_one_address_does_not_use_up_what_others_have() -> None:
    rates = ConnectionRates(1, 1, burst=3)
    assert [rates.admit("a", 0.0) for _ in range(3)] == [True] * 3
    assert not any(rates.admit("a", 0.0) for _ in range(100))
    assert rates.admit("b", 1.0)


def test_all_addresses_together_are_bounded() -> None:
    rates = ConnectionRates(1, 100, burst=5)
    assert sum(rates.admit(f"10.0.0.{number}", 0.0) for number in range(50)) == 5


def test_addresses_are_not_remembered_for_ever() -> None:
    rates = ConnectionRates(1e6, 1, burst=3)
    for number in range(25_000):
        rates.admit(str(number), float(number))
    assert len(rates._addresses) <= 10_000


def test_a_flood_is_told_once_a_second_with_its_size() -> None:
    sparing = Sparing()
    assert [sparing.due(at) for at in (1.0, 1.1, 1.9, 2.0, 2.1)] == [1, 0, 0, 3, 0]
