"""Stand-ins for the classes of Meta's packages `segment_anything` and `sam2`.

Code written for them runs on samserve after its import is changed:

    from samserve.sdk import RemoteSamPredictor as SamPredictor, sam_model_registry

    predictor = SamPredictor(sam_model_registry["vit_b"]())
    predictor.set_image(image)
    masks, scores, logits = predictor.predict(point_coords, point_labels)
"""

from samserve.sdk.generator import RemoteSam2AutomaticMaskGenerator, RemoteSamAutomaticMaskGenerator
from samserve.sdk.model import RemoteSam, sam_model_registry
from samserve.sdk.sam2_predictor import RemoteSam2Predictor
from samserve.sdk.sam_predictor import RemoteSamPredictor

__all__ = [
    "RemoteSam",
    "RemoteSam2AutomaticMaskGenerator",
    "RemoteSam2Predictor",
    "RemoteSamAutomaticMaskGenerator",
    "RemoteSamPredictor",
    "sam_model_registry",
]
