"""Where the licence of weights comes from, and what is too unclear to count."""

from __future__ import annotations

import pytest

from edgectl.builder.ingest.licence import licence_given, licence_of
from edgectl.core.errors import UsageError
from edgectl.core.files import file_digest
from edgectl.models import entries, reference

NO_FILE = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("said", "licence"),
    [
        ("AGPL-3.0 License (https://ultralytics.com/license)", "AGPL-3.0"),
        ("mit", "MIT"),
        ("The MIT License", "MIT"),
        ("Apache 2.0", "Apache-2.0"),
        ("Apache License, Version 2.0", "Apache-2.0"),
        ("GPL v3.0", "GPL-3.0"),
        ("BSD 3-Clause", "BSD-3-Clause"),
        ("MIT or Apache-2.0", "MIT OR Apache-2.0"),
        ("MIT for research, else commercial", None),
        ("non-commercial (MIT)", None),
        ("MIT (non-commercial use only)", None),
        ("Apache-2.0 (research only, no redistribution)", None),
        ("MIT (non-commercial use only) (https://example.com)", None),
        ("MIT (https://example.com) (non-commercial use only)", None),
        ("(https://example.com) MIT", None),
        ("MIT (https://example.com for research only)", None),
        ("see LICENSE", None),
        ("", None),
        ("MIT " * 10_000, None),
    ],
)
def test_the_words_of_a_file_count_only_as_a_whole(said: str, licence: str | None) -> None:
    assert licence_of(NO_FILE, {"author": "x", "License": said}) == licence


def test_the_catalogue_and_our_own_models_are_known_by_their_bytes() -> None:
    for entry in entries():
        assert licence_of(entry.digest, {"license": "proprietary"}) == entry.licence
    assert licence_of(file_digest(reference("yard-detector").model), {}) == "Apache-2.0"
    assert licence_of(NO_FILE, {"version": "8"}) is None


def test_what_the_user_says_is_an_spdx_expression_or_refused() -> None:
    assert licence_given("apache-2.0 or licenseref-ours") == "Apache-2.0 OR LicenseRef-ours"
    with pytest.raises(UsageError, match="'Ultralytics' is no SPDX expression"):
        licence_given("Ultralytics")
