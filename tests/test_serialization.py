"""Fields that come later leave what is stored alone."""

from dataclasses import dataclass

import pytest

from mnet_jax import serialization
from mnet_jax.serialization import added


@dataclass(frozen=True, kw_only=True)
class Short:
    length: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Long:
    length: float = 1.0


@dataclass(frozen=True, kw_only=True)
class LongSince:
    length: float = 1.0
    extra: float = added(0.0)


@dataclass(frozen=True, kw_only=True)
class Before:
    rule: Short | Long


@dataclass(frozen=True, kw_only=True)
class Since:
    rule: Short | LongSince
    count: int = added(1)


def test_a_field_that_is_not_used_is_not_in_the_text():
    before = serialization.to_json(Before(rule=Short(length=2)))
    assert serialization.to_json(Since(rule=Short(length=2))) == before
    since = serialization.to_plain(Since(rule=LongSince(length=2)))
    assert since == {"rule": {"type": "LongSince", "length": 2.0}}


@pytest.mark.parametrize(
    "value",
    [
        Since(rule=Short(), count=2),
        Since(rule=LongSince(extra=0.5)),
        Since(rule=LongSince(extra=0.5), count=3),
    ],
)
def test_a_field_that_is_used_comes_back(value):
    text = serialization.to_json(value)
    assert serialization.from_json(Since, text) == value
    assert serialization.to_json(serialization.from_json(Since, text)) == text


def test_a_text_of_before_is_read():
    text = serialization.to_json(Before(rule=Short(length=2)))
    assert serialization.from_json(Since, text) == Since(rule=Short(length=2))
