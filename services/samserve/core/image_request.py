"""The image that a call is about, as its caller names it: by its bytes or by its id."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from samserve.core.crop import Crop, crop_id
from samserve.core.errors import InvalidInput
from samserve.core.image_id import check_expected, check_image_id


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """One image and the model to use.

    Attributes:
        owner: Of the cache entries that the call may use, as in `Caller`.
        model: Name of the model; empty means the default.
        data: The encoded image, or None if only its id is sent.
        image_id: The image's id; read only if there is no `data`.
        expected_image_id: The id that the caller computed itself; empty if it did not.
        model_version: Version that must have made the embedding; empty means the one served.
        crop: Part of the image that the call is about instead.
    """

    owner: str
    model: str
    data: bytes | None
    image_id: str = ""
    expected_image_id: str = ""
    model_version: str = ""
    crop: Crop | None = None

    def check_size(self, max_bytes: int) -> None:
        """Check the length of the encoded image.

        Raises:
            InvalidInput: It is larger than `max_bytes`.
        """
        if self.data is not None and len(self.data) > max_bytes:
            raise InvalidInput(
                "data", f"the image has {len(self.data):,} bytes; the limit is {max_bytes:,}"
            )

    async def identify(self, hash_bytes: Callable[[bytes], Awaitable[str]]) -> str:
        """Return the image's id, or a part's. Arguments and errors as of `identify_whole`."""
        return (await self.identify_whole(hash_bytes))[0]

    async def identify_whole(
        self, hash_bytes: Callable[[bytes], Awaitable[str]]
    ) -> tuple[str, str]:
        """Return the image's id, and the whole image's if it is a part; else an empty one.

        The id is the hash of the bytes, or the checked id if there are none.

        A part of an image has another id.

        Args:
            hash_bytes: Computes `image_id` outside the event loop, as it takes time.

        Raises:
            InvalidInput: The id is malformed, or is not the expected one.
        """
        if self.data is None:
            image_id = check_image_id(self.image_id)
        else:
            image_id = await hash_bytes(self.data)
        whole_id = ""
        if self.crop is not None:
            whole_id, image_id = image_id, crop_id(image_id, self.crop)

        check_expected(image_id, self.expected_image_id)
        return image_id, whole_id
