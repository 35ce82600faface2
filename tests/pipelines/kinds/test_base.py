"""What every kind refuses before it is made."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.pipelines import box_task, make_variant

from edgectl.core.errors import UsageError
from edgectl.pipelines.host.config import parse_config
from edgectl.pipelines.kinds import KINDS
from edgectl.pipelines.kinds.base import PipelineArgs, make_pipeline, open_variant
from edgectl.pipelines.stream.part import PartVariant


@pytest.mark.parametrize("kind", KINDS.own)
def test_a_part_that_a_kind_does_not_have_is_named_beside_one_that_it_has(kind: str, tmp_path: Path) -> None:
    slot = PartVariant(make_variant(tmp_path, box_task()))
    engines = {KINDS.get(kind).parts[0]: slot, "detectr2": slot}
    args = PipelineArgs("gate", "none.mp4", engines, parse_config(kind, {}), print, open_variant)
    with pytest.raises(UsageError, match="has no part 'detectr2'"):
        make_pipeline(kind, args)
