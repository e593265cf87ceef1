"""Tokens of API V1, which every worker and host can verify."""

from __future__ import annotations

import re

import pytest

from docker_registry.drivers.memory import MemoryDriver
from docker_registry.registry.names import ImageRepositoryName
from docker_registry.registry.v1 import image_layout
from docker_registry.registry.v1.tokens import LIFETIME_SECONDS, Token, Tokens, token_repository
from tests.registry.test_leases import PlainDriver

NAME = ImageRepositoryName.parse("acme/web")


class TestAToken:
    @pytest.mark.parametrize("access", ["read", "write", "delete"])
    def test_has_the_format_that_clients_expect(self, driver, access):
        text = Tokens(driver).make(NAME, access)
        assert re.fullmatch(rf'Token signature=[^\s",]+,repository="acme/web",access={access}', text)

    def test_is_valid_on_every_host(self, driver):
        assert Token("acme/web", "write") == Tokens(driver).read(Tokens(driver).make(NAME, "write"))

    def test_may_repeat_its_scheme_as_docker_sends_it(self, driver):
        tokens = Tokens(driver)
        assert tokens.read("Token " + tokens.make(NAME, "read"))

    def test_writes_names_in_two_parts(self, driver):
        name = ImageRepositoryName.parse("a/b/c")
        assert "a/b%2Fc" == token_repository(name)
        assert Token("a/b%2Fc", "read") == Tokens(driver).read(Tokens(driver).make(name, "read"))

    def test_is_unique(self, driver):
        tokens = Tokens(driver, lambda: 0.0)
        assert 100 == len({tokens.make(NAME, "read") for _ in range(100)})

    def test_expires(self, driver):
        text = Tokens(driver, lambda: 1000.0).make(NAME, "read")
        assert Tokens(driver, lambda: 1000.0 + LIFETIME_SECONDS).read(text)
        assert None is Tokens(driver, lambda: 1001.0 + LIFETIME_SECONDS).read(text)

    def test_ends_with_the_credentials_of_its_holder(self, driver):
        text = Tokens(driver, lambda: 1000.0).make(NAME, "read", "alice", 1060.5)
        assert 1060 == Tokens(driver, lambda: 1060.0).read(text).expires
        assert None is Tokens(driver, lambda: 1061.0).read(text)

    def test_of_another_registry_is_invalid(self, driver):
        assert None is Tokens(PlainDriver()).read(Tokens(driver).make(NAME, "read"))

    def test_cannot_be_changed(self, driver):
        tokens = Tokens(driver)
        text = tokens.make(NAME, "read")
        expiry = re.search(r"signature=([0-9a-f]+)", text)[1]
        for old, new in [
            ("access=read", "access=write"),
            ("acme/web", "acme/db"),
            (expiry, f"{int(expiry, 16) + 1:x}"),
        ]:
            assert None is tokens.read(text.replace(old, new))

    @pytest.mark.parametrize("text", ["", "Token", "Token signature=x", "Basic dTpw", "Bearer x", "\x00"])
    def test_has_no_other_format(self, driver, text):
        assert None is Tokens(driver).read(text)


class TestTheKey:
    @pytest.mark.parametrize("damaged", [b"", bytes(32), b"shorter"], ids=["empty", "zeros", "short"])
    @pytest.mark.parametrize("make_driver", [MemoryDriver, PlainDriver])
    def test_that_is_damaged_is_replaced(self, make_driver, damaged, caplog):
        driver = make_driver()
        driver.put_content(image_layout.TOKEN_KEY, damaged)
        forger = Tokens(driver)
        forger._known_key = damaged
        forged = forger.make(NAME, "write")

        assert None is Tokens(driver).read(forged)
        assert Tokens(driver).read(Tokens(driver).make(NAME, "write"))
        (record,) = caplog.records
        assert "key that signs tokens of API V1 is damaged" in record.getMessage()

    def test_is_stored_once(self, driver):
        for _ in range(3):
            Tokens(driver).make(NAME, "read")
        (path,) = [stat.path for stat in driver.walk()]
        assert 32 == driver.get_size(path)

    def test_is_shared_without_conditional_writes(self):
        driver = PlainDriver()
        assert Tokens(driver).read(Tokens(driver).make(NAME, "read"))
