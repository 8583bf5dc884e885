"""SAM's predictor, on samserve."""

from __future__ import annotations

from typing import Any

import numpy as np

from samserve.core.arrays import Array, Bytes, Floats
from samserve.core.geometry import Size
from samserve.sdk.arrays import as_array, checked
from samserve.sdk.image import Cut, Prompts, RemoteImage
from samserve.sdk.model import ModelInput, as_model
from samserve.sdk.transform import ResizeLongestSide

NOT_SET = "An image must be set with .set_image(...) before mask prediction."


class RemoteSamPredictor:
    """`SamPredictor` of segment_anything: set an image, then ask for masks.

    Not to be shared by threads, as Meta's is not; threads may share its model.

    Attributes:
        model: The served model.
        transform: Scales coordinates to the model's frame.
        is_image_set: Whether there is an image.
        original_size: Height and width of the image; missing before `set_image`.
        input_size: Height and width in the frame; missing before `set_image`.
    """

    original_size: tuple[int, ...]
    input_size: tuple[int, ...]

    def __init__(self, sam_model: ModelInput = None) -> None:
        """Create a predictor.

        Args:
            sam_model: A `RemoteSam`, a `Client`, a served model's name, or None for the default.

        Raises:
            ModelNotFound: The model is not served.
        """
        self.model = as_model(sam_model)
        self.transform = ResizeLongestSide(self.model.image_encoder.img_size)
        self._image: RemoteImage | None = None
        self._features: Any = None
        self.reset_image()

    def set_image(self, image: Bytes, image_format: str = "RGB") -> None:
        """Embed an image.

        Args:
            image: [H, W, 3] uint8.
            image_format: Order of its channels, "RGB" or "BGR".
        """
        assert image_format in ("RGB", "BGR"), (
            f"image_format must be in ['RGB', 'BGR'], is {image_format}."
        )
        if image_format != self.model.image_format:
            image = image[..., ::-1]
        self.reset_image()
        self._use(RemoteImage(self.model, np.ascontiguousarray(image)))

    def set_torch_image(self, transformed_image: Any, original_image_size: tuple[int, ...]) -> None:
        """Embed an image that is already in the model's frame.

        Args:
            transformed_image: Tensor [1, 3, H, W] from 0 to 255, RGB; its values are rounded.
            original_image_size: Height and width of the image before.
        """
        side = self.transform.target_length
        shape = transformed_image.shape
        assert len(shape) == 4 and shape[1] == 3 and max(shape[2:]) == side, (
            f"set_torch_image input must be BCHW with long side {side}."
        )
        self.reset_image()
        pixels = np.clip(np.rint(as_array(transformed_image)[0]), 0, 255).astype(np.uint8)
        height, width = original_image_size
        image = np.ascontiguousarray(pixels.transpose(1, 2, 0))
        self._use(RemoteImage(self.model, image, Size(int(width), int(height))))

    def predict(
        self,
        point_coords: Array | None = None,
        point_labels: Array | None = None,
        box: Array | None = None,
        mask_input: Array | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
    ) -> tuple[Array, Floats, Floats]:
        """Return the masks of one prompt.

        Args:
            point_coords: [N, 2], (x, y) in pixels of the image.
            point_labels: [N], 1 on the object, 0 beside it.
            box: [4], x0, y0, x1, y1 in pixels; cut off at the image's edges.
            mask_input: [1, 256, 256], low-res logits of an earlier answer.
            multimask_output: True for three masks, False for one.
            return_logits: True for logits instead of masks.

        Returns:
            Masks bool [C, H, W], or logits float32; predicted IoUs [C]; low-res logits
            [C, 256, 256]. In the decoder's order.

        Raises:
            RuntimeError: No image is set.
            AssertionError: There are points without labels.
            InvalidInput: The prompt is invalid.
        """
        image = self._image_set()
        points = labels = boxes = logits = None
        if point_coords is not None:
            assert point_labels is not None, (
                "point_labels must be supplied if point_coords is supplied."
            )
            points = checked(point_coords, (None, 2), "point_coords")[None] * self._to_sent()
            labels = checked(point_labels, (len(points[0]),), "point_labels")[None]
        if box is not None:
            corners = checked(np.reshape(box, -1), (4,), "box")
            boxes = (corners.reshape(1, 2, 2) * self._to_sent()).reshape(1, 4)
        if mask_input is not None:
            logits = checked(mask_input, (1, None, None), "mask_input")

        masks, ious, low_res = self._answer(
            image, Prompts(points, labels, boxes, logits), multimask_output, return_logits
        )
        return masks[0], ious[0], low_res[0]

    def predict_torch(
        self,
        point_coords: Any,
        point_labels: Any,
        boxes: Any = None,
        mask_input: Any = None,
        multimask_output: bool = True,
        return_logits: bool = False,
    ) -> tuple[Any, Any, Any]:
        """Return the masks of B prompts as tensors.

        Args:
            point_coords: [B, N, 2] in pixels of the model's frame, as `transform` gives them.
            point_labels: [B, N].
            boxes: [B, 4], likewise in the frame.
            mask_input: [B, 1, 256, 256].
            multimask_output: As of `predict`.
            return_logits: As of `predict`.

        Returns:
            [B, C, H, W], [B, C] and [B, C, 256, 256].

        Raises:
            RuntimeError: No image is set.
            InvalidInput: A prompt is invalid.
        """
        import torch

        image = self._image_set()
        points = labels = corners = logits = None
        if point_coords is not None:
            points = checked(point_coords, (None, None, 2), "point_coords") * self._from_frame()
            labels = checked(point_labels, points.shape[:2], "point_labels")
        if boxes is not None:
            pairs = as_array(boxes).reshape(-1, 2, 2) * self._from_frame()
            corners = pairs.reshape(-1, 4)
        if mask_input is not None:
            logits = checked(mask_input, (None, 1, None, None), "mask_input")[:, 0]

        answer = self._answer(
            image, Prompts(points, labels, corners, logits), multimask_output, return_logits
        )
        masks, ious, low_res = map(torch.from_numpy, answer)
        return masks, ious, low_res

    def get_image_embedding(self) -> Any:
        """Return the embedding, a tensor [1, 256, 64, 64].

        Raises:
            RuntimeError: No image is set.
        """
        if not self.is_image_set:
            raise RuntimeError(
                "An image must be set with .set_image(...) to generate an embedding."
            )
        return self.features

    @property
    def features(self) -> Any:
        """The embedding as a tensor, fetched when it is first read; None without an image."""
        if self._features is None and self._image is not None:
            import torch

            self._features = torch.from_numpy(self._image.tensors()["embedding"])
        return self._features

    @property
    def device(self) -> Any:
        """The device of returned tensors."""
        return self.model.device

    def reset_image(self) -> None:
        """Forget the image; the service keeps its embedding."""
        self.is_image_set = False
        self._image = self._features = None
        self.orig_h = self.orig_w = self.input_h = self.input_w = None

    def _use(self, image: RemoteImage) -> None:
        shown, length = image.shown, self.transform.target_length
        self._image = image
        self.original_size = (shown.height, shown.width)
        self.input_size = self.transform.get_preprocess_shape(shown.height, shown.width, length)
        self.is_image_set = True

    def _image_set(self) -> RemoteImage:
        if self._image is None:
            raise RuntimeError(NOT_SET)
        return self._image

    def _to_sent(self) -> Array:
        """The scale from pixels of the original image to pixels of the one that was sent."""
        image = self._image_set()
        sent, shown = image.size, image.shown
        return np.array([sent.width / shown.width, sent.height / shown.height])

    def _from_frame(self) -> Array:
        """The scale from pixels of the frame to pixels of the image that was sent."""
        sent = self._image_set().size
        height, width = self.input_size
        return np.array([sent.width / width, sent.height / height])

    def _answer(
        self, image: RemoteImage, prompts: Prompts, multimask: bool, return_logits: bool
    ) -> tuple[Array, Floats, Floats]:
        prediction = image.predict(prompts, multimask)
        cut = Cut(self.model.mask_threshold)
        masks = image.logits(prediction, cut) if return_logits else image.masks(prediction, cut)
        return masks, prediction.predicted_iou, prediction.low_res
