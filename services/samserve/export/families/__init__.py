"""The families of models that can be exported. To add one, write its file and register it here."""

from __future__ import annotations

from samserve.export.families.family import ExportFamily
from samserve.export.families.sam import SAM
from samserve.export.families.sam2 import SAM2
from samserve.export.families.sam3 import SAM3
from samserve.export.families.sam_hq import SAM_HQ

FAMILIES: tuple[ExportFamily, ...] = (SAM, SAM2, SAM3, SAM_HQ)
MODEL_TYPES = {kind: family for family in FAMILIES for kind in family.model_types}
