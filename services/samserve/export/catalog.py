"""Checkpoints that Meta publishes: their addresses and digests.

Meta publishes no digests. The SHA-256 below are those that independent projects pin for these
addresses, among them micro-sam (computational-cell-analytics/micro-sam, util.py). The digits in the
names of SAM's files are the start of their MD5.
"""

from __future__ import annotations

from dataclasses import dataclass

_SAM = "https://dl.fbaipublicfiles.com/segment_anything"
_SAM2 = "https://dl.fbaipublicfiles.com/segment_anything_2/072824"
_SAM2_1 = "https://dl.fbaipublicfiles.com/segment_anything_2/092824"


@dataclass(frozen=True, slots=True)
class PublishedCheckpoint:
    """A checkpoint that Meta publishes.

    Attributes:
        url: Meta's address of the file.
        sha256: Of the file, in hexadecimal.
    """

    url: str
    sha256: str

    @property
    def file(self) -> str:
        """The file's name."""
        return self.url.rsplit("/", 1)[1]


GATED = {  # models that their owners give out by hand, and where to ask for them
    "sam3": "https://huggingface.co/facebook/sam3",
}

PUBLISHED = {  # by the names of their bundles
    "sam-vit-b": PublishedCheckpoint(
        f"{_SAM}/sam_vit_b_01ec64.pth",
        "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
    ),
    "sam-vit-l": PublishedCheckpoint(
        f"{_SAM}/sam_vit_l_0b3195.pth",
        "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
    ),
    "sam-vit-h": PublishedCheckpoint(
        f"{_SAM}/sam_vit_h_4b8939.pth",
        "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
    ),
    "sam2-tiny": PublishedCheckpoint(
        f"{_SAM2}/sam2_hiera_tiny.pt",
        "65b50056e05bcb13694174f51bb6da89c894b57b75ccdf0ba6352c597c5d1125",
    ),
    "sam2-small": PublishedCheckpoint(
        f"{_SAM2}/sam2_hiera_small.pt",
        "95949964d4e548409021d47b22712d5f1abf2564cc0c3c765ba599a24ac7dce3",
    ),
    "sam2-base-plus": PublishedCheckpoint(
        f"{_SAM2}/sam2_hiera_base_plus.pt",
        "d0bb7f236400a49669ffdd1be617959a8b1d1065081789d7bbff88eded3a8071",
    ),
    "sam2-large": PublishedCheckpoint(
        f"{_SAM2}/sam2_hiera_large.pt",
        "7442e4e9b732a508f80e141e7c2913437a3610ee0c77381a66658c3a445df87b",
    ),
    "sam2.1-tiny": PublishedCheckpoint(
        f"{_SAM2_1}/sam2.1_hiera_tiny.pt",
        "7402e0d864fa82708a20fbd15bc84245c2f26dff0eb43a4b5b93452deb34be69",
    ),
    "sam2.1-small": PublishedCheckpoint(
        f"{_SAM2_1}/sam2.1_hiera_small.pt",
        "6d1aa6f30de5c92224f8172114de081d104bbd23dd9dc5c58996f0cad5dc4d38",
    ),
    "sam2.1-base-plus": PublishedCheckpoint(
        f"{_SAM2_1}/sam2.1_hiera_base_plus.pt",
        "a2345aede8715ab1d5d31b4a509fb160c5a4af1970f199d9054ccfb746c004c5",
    ),
    "sam2.1-large": PublishedCheckpoint(
        f"{_SAM2_1}/sam2.1_hiera_large.pt",
        "2647878d5dfa5098f2f8649825738a9345572bae2d4350a2468587ece47dd318",
    ),
}
