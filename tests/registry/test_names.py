from __future__ import annotations

import pytest

from docker_registry.errors import DigestInvalid, ImageUnknown, NameInvalid, TagInvalid
from docker_registry.registry.names import (
    Digest,
    ImageId,
    ImageRepositoryName,
    RepositoryName,
    Tag,
    parse_algorithm,
    parse_reference,
)

EMPTY = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


class TestARepositoryName:
    @pytest.mark.parametrize(
        "text",
        [
            "a",
            "library/busybox",
            "a/b/c/d",
            "a.b",
            "a_b",
            "a__b",
            "a--b",
            "a---b",
            "0",
            "tags/manifests/blobs",
            "a" * 255,
        ],
    )
    def test_is_accepted_if_it_matches_the_grammar(self, text):
        assert text == str(RepositoryName.parse(text))

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "A",
            "a/",
            "/a",
            "a//b",
            "a_",
            "_a",
            "a___b",
            "a..b",
            ".a",
            "a.-b",
            "ä",
            "a b",
            "a\n",
            "a/../b",
            "a" * 256,
        ],
    )
    def test_is_rejected_if_it_does_not_match(self, text):
        with pytest.raises(NameInvalid):
            RepositoryName.parse(text)


class TestATag:
    @pytest.mark.parametrize("text", ["latest", "V1.0_x-y", "_x", "0", "a" * 128])
    def test_is_accepted_if_it_matches_the_grammar(self, text):
        assert text == str(Tag.parse(text))

    @pytest.mark.parametrize("text", ["", ".x", "-x", "a/b", "a b", "a" * 129, "ä", "a\n"])
    def test_is_rejected_if_it_does_not_match(self, text):
        with pytest.raises(TagInvalid):
            Tag.parse(text)


class TestADigest:
    def test_is_the_hash_of_its_content(self):
        assert EMPTY == str(Digest.of(b""))

    def test_may_be_of_sha512(self):
        assert Digest.of(b"", "sha512") == Digest.parse(str(Digest.of(b"", "sha512")))

    @pytest.mark.parametrize(
        "text",
        [
            "",
            ":",
            "sha256",
            "sha256:",
            "sha256:ab",
            EMPTY.upper(),
            EMPTY + "0",
            EMPTY[:-1] + "g",
            "md5:" + "0" * 32,
            EMPTY + "\n",
        ],
    )
    def test_is_rejected_if_it_cannot_be_verified(self, text):
        with pytest.raises(DigestInvalid):
            Digest.parse(text)

    def test_names_the_algorithms_there_are(self):
        with pytest.raises(DigestInvalid, match="sha512"):
            parse_algorithm("md5")


class TestAReference:
    def test_is_a_tag_without_a_colon(self):
        assert Tag("latest") == parse_reference("latest")

    def test_is_a_digest_with_one(self):
        assert Digest.of(b"") == parse_reference(EMPTY)


class TestAnImageId:
    @pytest.mark.parametrize("text", ["0" * 64, "0123456789abcdef" * 4, "0123456789abcdef"])
    def test_has_64_hexadecimal_digits_or_16(self, text):
        assert text == str(ImageId.parse(text))

    @pytest.mark.parametrize("text", ["", "0" * 63, "0" * 65, "0" * 17, "A" * 64, "g" * 16, "0" * 64 + "\n", "../../x"])
    def test_is_unknown_otherwise(self, text):
        with pytest.raises(ImageUnknown):
            ImageId.parse(text)


class TestAnImageRepositoryName:
    @pytest.mark.parametrize(
        ("text", "full"),
        [
            ("foo", "library/foo"),
            ("library/foo", "library/foo"),
            ("acme/web", "acme/web"),
            ("a/b/c", "a/b/c"),
            ("Acme/WEB", "Acme/WEB"),
            ("_x-/y.z_", "_x-/y.z_"),
        ],
    )
    def test_has_a_namespace_and_may_have_capitals(self, text, full):
        assert full == str(ImageRepositoryName.parse(text))

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "/",
            "a/",
            "/a",
            "a//b",
            "..",
            "a/..",
            "a/../b",
            ".a",
            "a/.b",
            "a b",
            "a/b\n",
            "a/ü",
            "a%2Fb",
            "a+b",
            "a:b",
        ],
    )
    def test_is_refused_outside_its_grammar(self, text):
        with pytest.raises(NameInvalid):
            ImageRepositoryName.parse(text)

    def test_is_refused_when_it_is_too_long_for_a_folder(self):
        assert ImageRepositoryName.parse("a/" + "b" * 240)
        for text in ("a/" + "b" * 256, "a" * 256, "a" + "/b" * 60):
            with pytest.raises(NameInvalid):
                ImageRepositoryName.parse(text)
