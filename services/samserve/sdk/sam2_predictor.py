"""SAM 2's predictor for images, on samserve."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from samserve.core.arrays import Array, Bytes, Floats
from samserve.sdk.arrays import as_array, checked
from samserve.sdk.image import Cut, Prompts, RemoteImage
from samserve.sdk.model import ModelInput, RemoteSam, as_model, name_of_hub_id
from samserve.sdk.transform import Sam2Transforms

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage

MOST_LOGIT = 32.0  # SAM 2 clamps the low-res logits that it returns
NOT_SET = "An image must be set with .set_image(...) before mask prediction."
BATCH_NOT_SET = "An image must be set with .set_image_batch(...) before mask prediction."

Answer = tuple[Floats, Floats, Floats]
Given = Sequence[Array | None] | None


class RemoteSam2Predictor:
    """`SAM2ImagePredictor` of sam2: set an image or several, then ask for masks.

    Not to be shared by threads, as Meta's is not; threads may share its model.

    Attributes:
        model: The served model.
        mask_threshold: Logits above this are the mask.
    """

    def __init__(
        self,
        sam_model: ModelInput = None,
        mask_threshold: float = 0.0,
        max_hole_area: float = 0.0,
        max_sprinkle_area: float = 0.0,
        **_: object,
    ) -> None:
        """Create a predictor.

        Args:
            sam_model: A `RemoteSam`, a `Client`, a served model's name, or None for the default.
            mask_threshold: Logits above this are the mask.
            max_hole_area: Holes of up to so many low-res cells are filled.
            max_sprinkle_area: Islands of up to so many low-res cells are removed.
            _: Ignored, as Meta's predictor does.

        Raises:
            ModelNotFound: The model is not served.
        """
        self.model = as_model(sam_model)
        self.mask_threshold = mask_threshold
        side = self.model.image_size
        self._transforms = Sam2Transforms(side, mask_threshold, max_hole_area, max_sprinkle_area)
        self._bb_feat_sizes = [(side // stride,) * 2 for stride in (4, 8, 16)]
        self._images: list[RemoteImage] = []
        self._orig_hw: list[tuple[int, int]] | None = None
        self._fetched: dict[str, Any] | None = None
        self.reset_predictor()

    @classmethod
    def from_pretrained(cls, model_id: str, **kwargs: Any) -> Self:
        """Create a predictor of a served model.

        Args:
            model_id: A name on the Hugging Face hub, such as "facebook/sam2.1-hiera-tiny", which is
                served as "sam2.1-tiny"; or a served model's name.
            kwargs: As of the constructor.
        """
        return cls(RemoteSam(model=name_of_hub_id(model_id)), **kwargs)

    def set_image(self, image: Bytes | PilImage) -> None:
        """Embed an image: [H, W, 3] uint8 RGB, or a Pillow image."""
        self.reset_predictor()
        pillow = sys.modules.get("PIL.Image")
        if isinstance(image, np.ndarray):
            image = np.ascontiguousarray(image)
        elif pillow is None or not isinstance(image, pillow.Image):
            raise NotImplementedError("Image format not supported")
        self._use([RemoteImage(self.model, image)])

    def set_image_batch(self, image_list: list[Bytes]) -> None:
        """Embed several images, for `predict_batch`."""
        self.reset_predictor()
        assert isinstance(image_list, list)
        for image in image_list:
            assert isinstance(image, np.ndarray), (
                "Images are expected to be an np.ndarray in RGB format, and of shape  HWC"
            )
        self._use([RemoteImage(self.model, np.ascontiguousarray(image)) for image in image_list])
        self._is_batch = True

    def predict(
        self,
        point_coords: Array | None = None,
        point_labels: Array | None = None,
        box: Array | None = None,
        mask_input: Array | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
        normalize_coords: bool = True,
    ) -> Answer:
        """Return the masks of a prompt, or of B prompts.

        Args:
            point_coords: [N, 2] or [B, N, 2], (x, y) in pixels of the image.
            point_labels: [N] or [B, N], 1 on the object, 0 beside it.
            box: [4] or [B, 4], x0, y0, x1, y1 in pixels; cut off at the image's edges.
            mask_input: [1, 256, 256] or [B, 1, 256, 256], low-res logits of an earlier answer.
            multimask_output: True for three masks, False for one.
            return_logits: True for logits instead of masks.
            normalize_coords: False if coordinates are from 0 to 1 instead of pixels.

        Returns:
            Masks float32 [C, H, W], 0 or 1, or logits; predicted IoUs [C]; low-res logits
            [C, 256, 256] from -32 to 32. For B > 1 prompts with B in front. In the decoder's order.

        Raises:
            RuntimeError: No image is set, or the numbers of prompts differ.
            AssertionError: There are points without labels.
            InvalidInput: A prompt is invalid.
        """
        if not self._is_image_set:
            raise RuntimeError(NOT_SET)
        image = self._images[-1]
        prompts = _read(image, point_coords, point_labels, box, mask_input, normalize_coords)
        return self._answer(image, prompts, multimask_output, return_logits)

    def predict_batch(
        self,
        point_coords_batch: Given = None,
        point_labels_batch: Given = None,
        box_batch: Given = None,
        mask_input_batch: Given = None,
        multimask_output: bool = True,
        return_logits: bool = False,
        normalize_coords: bool = True,
    ) -> tuple[list[Floats], list[Floats], list[Floats]]:
        """Return the masks of prompts on each image of `set_image_batch`.

        Args:
            point_coords_batch: For each image, as of `predict`; likewise the others.
            point_labels_batch: For each image.
            box_batch: For each image.
            mask_input_batch: For each image.
            multimask_output: As of `predict`.
            return_logits: As of `predict`.
            normalize_coords: As of `predict`.

        Raises:
            AssertionError: The images were not set by `set_image_batch`.
            InvalidInput: A prompt is invalid.
        """
        assert self._is_batch, "This function should only be used when in batched mode"
        if not self._is_image_set:
            raise RuntimeError(BATCH_NOT_SET)

        answers = []
        batches = (point_coords_batch, point_labels_batch, box_batch, mask_input_batch)
        for index, image in enumerate(self._images):
            coords, labels, box, mask = (None if each is None else each[index] for each in batches)
            prompts = _read(image, coords, labels, box, mask, normalize_coords)
            answers.append(self._answer(image, prompts, multimask_output, return_logits))
        masks, ious, low_res = (list(each) for each in zip(*answers, strict=True))
        return masks, ious, low_res

    def get_image_embedding(self) -> Any:
        """Return the embedding, a tensor [1, 256, 64, 64].

        Raises:
            RuntimeError: No image is set.
        """
        if not self._is_image_set:
            raise RuntimeError(
                "An image must be set with .set_image(...) to generate an embedding."
            )
        return self._features["image_embed"]

    @property
    def _features(self) -> Any:
        """The embeddings of B images as tensors, fetched when first read; None without an image.

        `image_embed` is [B, 256, 64, 64]; `high_res_feats` are [B, 32, 256, 256] and
        [B, 64, 128, 128].
        """
        if self._fetched is None and self._images:
            import torch

            fetched = [image.tensors() for image in self._images]
            maps = {
                name: torch.from_numpy(np.concatenate([tensors[name] for tensors in fetched]))
                for name in fetched[0]
            }
            fine = [maps[name] for name in ("fine_0", "fine_1") if name in maps]
            self._fetched = {"image_embed": maps["embedding"], "high_res_feats": fine}
        return self._fetched

    @property
    def device(self) -> Any:
        """The device of returned tensors."""
        return self.model.device

    def reset_predictor(self) -> None:
        """Forget the images; the service keeps their embeddings."""
        self._images = []
        self._is_image_set = False
        self._is_batch = False
        self._orig_hw = None
        self._fetched = None

    def _use(self, images: list[RemoteImage]) -> None:
        self._images = images
        self._orig_hw = [(image.size.height, image.size.width) for image in images]
        self._is_image_set = True

    def _answer(
        self, image: RemoteImage, prompts: Prompts, multimask: bool, return_logits: bool
    ) -> Answer:
        transforms = self._transforms
        cut = Cut(self.mask_threshold, transforms.max_hole_area, transforms.max_sprinkle_area)
        prediction = image.predict(prompts, multimask)

        masks = image.logits(prediction, cut) if return_logits else image.masks(prediction, cut)
        low_res = prediction.low_res.clip(-MOST_LOGIT, MOST_LOGIT)
        answer = masks.astype(np.float32), prediction.predicted_iou, low_res
        return answer if len(prompts) > 1 else (answer[0][0], answer[1][0], answer[2][0])


def _read(
    image: RemoteImage,
    point_coords: Any,
    point_labels: Any,
    box: Any,
    mask_input: Any,
    normalize_coords: bool,
) -> Prompts:
    """Return the prompts in pixels, as many of each part. Raises as `predict`."""
    scale = np.array([1, 1] if normalize_coords else [image.size.width, image.size.height])
    points = labels = boxes = logits = None
    if point_coords is not None:
        assert point_labels is not None, (
            "point_labels must be supplied if point_coords is supplied."
        )
        points, labels = as_array(point_coords), as_array(point_labels)
        if points.ndim == 2:
            points, labels = points[None], labels[None]
        points = checked(points, (None, None, 2), "point_coords") * scale
        labels = checked(labels, points.shape[:2], "point_labels")
    if box is not None:
        corners = checked(np.reshape(as_array(box), (-1, 4)), (None, 4), "box")
        boxes = (corners.reshape(-1, 2, 2) * scale).reshape(-1, 4)
    if mask_input is not None:
        given = as_array(mask_input)
        given = given[None] if given.ndim == 3 else given
        logits = checked(given, (None, 1, None, None), "mask_input")[:, 0]

    # One mask may serve all prompts; points and boxes come in equal numbers.
    prompts = Prompts(points, labels, boxes, logits)
    if logits is not None and len(logits) == 1:
        logits = logits.repeat(len(prompts), axis=0)
    for name, part in {"point_coords": points, "box": boxes, "mask_input": logits}.items():
        if part is not None and len(part) != len(prompts):
            raise RuntimeError(f"{name} has {len(part)} prompts; expected {len(prompts)}")
    return Prompts(points, labels, boxes, logits)
