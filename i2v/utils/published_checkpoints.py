"""The published checkpoints, which are not in this repository: their web addresses, and how to tell image segmenters apart."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

_SAM_I2V = "https://drive.google.com/drive/folders/1sRvmBf_QwCwyxppuB_5-9IMcAHcUK_K7?usp=sharing"
# Page of each file.
PAGES = {
    "sam-i2v_8gpu.pt": _SAM_I2V,
    "sam-i2v_32gpu.pt": _SAM_I2V,
    "tinysam.pth": "https://huggingface.co/xinghaochen/tinysam/tree/main",
    "mobile_sam.pt": "https://github.com/ChaoningZhang/MobileSAM/tree/master/weights",
    "edge_sam.pth": "https://github.com/chongzhou96/EdgeSAM",
    "SlimSAM-50-uniform.pth": "https://github.com/czg1225/SlimSAM",
    "SlimSAM-77-uniform.pth": "https://github.com/czg1225/SlimSAM",
    "sam_vit_b_01ec64.pth": "https://github.com/facebookresearch/segment-anything#model-checkpoints",
}
# Addresses from which a program can download.
FILES = {"tinysam.pth": "https://huggingface.co/xinghaochen/tinysam/resolve/main/tinysam.pth"}


def advice(path: Path) -> str:
    """Where to download a missing file, for a message; empty if it is not a published one."""
    if path.name in FILES:
        return f"; python tools/download_checkpoints.py fetches it from {PAGES[path.name]}"
    return f"; download it from {PAGES[path.name]}" if path.name in PAGES else ""


class Family(NamedTuple):
    """Published image segmenters with the same trunk.

    Attributes:
        title (str): what they are called in the literature.
        trunk (str or None): name of the trunk's config (model/trunk=...); None if there is none.
        names (tuple of str): what they are called here; see `i2v.image_predictor.build_sam`.
    """

    title: str
    trunk: str | None = None
    names: tuple[str, ...] = ()


_TINY_VIT = Family("TinySAM or MobileSAM", "tiny_vit", ("tinysam", "mobilesam"))
_REP_VIT = Family("EdgeSAM", "rep_vit", ("edge_sam",))
_SAM_2 = Family("SAM 2")
_VIDEO_MODEL = Family("SAM-I2V itself")
# By the number of channels of the ViT.
_VITS = {
    168: Family("SlimSAM-77", "vit_slim_77", ("slimsam_77",)),
    384: Family("SlimSAM-50", "vit_slim_50", ("slimsam_50",)),
    768: Family("SAM-Base", "vit_base", ("sam_b",)),
    1024: Family("SAM-Large"),
    1280: Family("SAM-Huge"),
}
# Trunk of each image segmenter that can be used here, by its name.
IMAGE_SEGMENTERS = {
    name: family.trunk for family in (_TINY_VIT, _REP_VIT, *_VITS.values()) if family.trunk for name in family.names
}


def family_of(trunk: Mapping[str, Tensor]) -> Family | None:
    """The family that a trunk's weights look like, by their names without a prefix; None if it is none of the known ones."""
    if "pos_embed" in trunk and trunk["pos_embed"].ndim == 4:
        return _VITS.get(trunk["pos_embed"].shape[-1])
    if "fuse_stage2.weight" in trunk:
        return _REP_VIT
    for prefix, family in (("trunk.", _SAM_2), ("trunk_image.", _VIDEO_MODEL)):
        if any(name.startswith(prefix) for name in trunk):
            return family
    return _TINY_VIT if "patch_embed.seq.0.c.weight" in trunk else None


def resemblance(given: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """What weights look like, and what to do with them, for a message; empty if that is what is expected, or unknown.

    Args:
        given (Mapping[str, Tensor]): the weights of the image encoder by name, without a prefix.
        expected (Mapping[str, Tensor]): those that the network has.
    """
    family, wanted = family_of(given), family_of(expected)
    if family is None or family == wanted:
        return ""
    channels = f" ({given['pos_embed'].shape[-1]} channels)" if "pos_embed" in given else ""
    if family is _VIDEO_MODEL:
        use = "load it as a video model"
    elif family.trunk is None:
        use = "no trunk here fits it"
    elif wanted is _VIDEO_MODEL:
        use = "use it with i2v.image_predictor.build_sam, or as initial_weights of a training"
    else:
        use = f"choose model/trunk={family.trunk}, or the image segmenter {' or '.join(family.names)}"
    return f": it looks like {family.title}{channels}; {use}"
