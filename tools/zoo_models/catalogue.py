"""Every case of the zoo, and how its network is made."""

from collections.abc import Iterable, Iterator
from typing import Any

from zoo_models.case import TORCH_EXPORTERS, Case, Network

Sized = dict[str, tuple[int, dict[str, Any]]]


def _sized(size: int, names: str, **options: Any) -> Sized:
    return dict.fromkeys(names.split(), (size, options))


TORCHVISION: Sized = {
    **_sized(
        64,
        """
        resnet18 resnet50 resnext50_32x4d wide_resnet50_2 mobilenet_v2 mobilenet_v3_small mobilenet_v3_large mnasnet0_5
        shufflenet_v2_x0_5 shufflenet_v2_x1_0 squeezenet1_1 densenet121 efficientnet_b0 efficientnet_v2_s regnet_x_400mf
        regnet_y_400mf vgg11 vgg11_bn alexnet convnext_tiny swin_t swin_v2_t
        """,
    ),
    **_sized(96, "googlenet inception_v3"),
    **_sized(64, "vit_b_16", image_size=64),
    **_sized(224, "maxvit_t"),
}

TIMM: Sized = {
    **_sized(
        64,
        """
        resnet10t resnet26t resnext50_32x4d seresnext26t_32x4d ecaresnet26t resnetblur18 resnetaa34d resnetv2_50x1_bit
        resnetv2_50d_gn regnetx_002 regnety_002 regnetz_005 densenet121 densenetblur121d efficientnet_b0
        efficientnetv2_rw_t efficientnet_lite0 efficientnet_b0_gn efficientnet_cc_b0_4e tf_efficientnet_b0 mixnet_s
        mobilenetv2_050 mobilenetv3_small_050 tf_mobilenetv3_small_075 mobilenetv4_conv_small_050
        mobilenetv4_hybrid_medium mnasnet_small semnasnet_075 fbnetc_100 fbnetv3_b spnasnet_100 lcnet_035 tinynet_e
        hardcorenas_a rexnet_100 rexnetr_100 ghostnet_050 ghostnetv2_100 ghostnetv3_050 repghostnet_050 hrnet_w18_small
        convnext_atto convnext_zepto_rms convnextv2_atto repvgg_a0 mobileone_s0 gernet_s resnet33ts eca_resnext26ts
        gcresnext26ts bat_resnext26ts regnetz_b16 resnest14d skresnet18 dla46_c dla60_res2net dpn48b res2net50_14w_8s
        res2next50 vovnet39a ese_vovnet19b_slim_dw cspresnet50 cspresnext50 cspdarknet53 cs3darknet_s cs3darknet_focus_s
        cs3se_edgenet_x darknet17 sedarknet21 cspnext_tiny tresnet_m selecsls42 hgnet_tiny hgnetv2_b0 nf_resnet26
        nf_regnet_b0 eca_nfnet_l0 nf_seresnet26 xception41 legacy_seresnet18 legacy_seresnext26_32x4d seresnet33ts
        starnet_s050 inception_next_atto mambaout_femto fasternet_t0 rdnet_tiny repvit_m0_9 shvit_s1 swiftformer_xs
        poolformer_s12 poolformerv2_s12 convformer_s18 caformer_s18 edgenext_xx_small efficientvit_b0 lcnetv2_small
        convmixer_768_32 cpubone_nano iformer_t lowformer_b0 fastvit_t8 csatv2 vit_tiny_r_s16_p8_224 resnet50_clip
        """,
    ),
    **_sized(
        64,
        """
        vit_tiny_patch16_224 deit_tiny_patch16_224 deit_tiny_distilled_patch16_224 deit3_small_patch16_224
        vit_relpos_small_patch16_224 vit_srelpos_small_patch16_224 eva02_tiny_patch14_224 cait_xxs24_224
        mixer_s16_224 gmixer_12_224 gmlp_ti16_224 resmlp_12_224 xcit_nano_12_p16_224 convit_tiny
        """,
        depth=2,
    ),
    **_sized(
        64,
        """
        beit_base_patch16_224 flexivit_small vit_base_patch16_siglip_224 vit_base_patch16_clip_224
        vit_base_patch16_rope_224 aimv2_large_patch14_224 samvit_base_patch16_224
        naflexvit_base_patch16_gap
        """,
        depth=2, embed_dim=96, num_heads=3,
    ),
    **_sized(
        128,
        """
        legacy_xception inception_v3 inception_v4 inception_resnet_v2 nasnetalarge pnasnet5large
        swin_tiny_patch4_window7_224 swin_s3_tiny_224 swinv2_tiny_window8_256 swinv2_cr_tiny_224 maxvit_pico_rw_256
        maxvit_rmlp_pico_rw_256 coatnet_pico_rw_224 coatnet_nano_cc_224 coatnext_nano_rw_224 mobilevit_xxs
        mobilevitv2_050 botnet26t_256 halonet26t lambda_resnet26t eca_botnext26ts_256 visformer_tiny pvt_v2_b0
        twins_pcpvt_small twins_svt_small davit_tiny focalnet_tiny_srf nextvit_small efficientformerv2_s0
        coat_lite_tiny coat_tiny tiny_vit_5m_224 nest_tiny vitamin_small_224 gcvit_xxtiny mvitv2_tiny hiera_tiny_224
        sequencer2d_s efficientvit_m0 efficientvim_m1 tnt_s_patch16_224 volo_d1_224
        """,
    ),
    **_sized(224, "levit_128s levit_conv_128s pit_ti_224 efficientformer_l1"),
    **_sized(240, "crossvit_tiny_240"),
    **_sized(64, "mixer_s16_224 gmixer_12_224 gmlp_ti16_224 resmlp_12_224"),
    **_sized(256, "halonet26t bat_resnext26ts"),
}  # fmt: skip
"""Image size and options by name."""

SEGMENTATION = {
    "fcn_resnet50": 64, "deeplabv3_mobilenet_v3_large": 64, "deeplabv3_resnet50": 64, "lraspp_mobilenet_v3_large": 64
}  # fmt: skip

DETECTION = {
    "ssdlite320_mobilenet_v3_large": 320, "ssd300_vgg16": 300, "fasterrcnn_mobilenet_v3_large_320_fpn": 128,
    "fasterrcnn_resnet50_fpn_v2": 128, "retinanet_resnet50_fpn": 128, "retinanet_resnet50_fpn_v2": 128,
    "fcos_resnet50_fpn": 128, "maskrcnn_resnet50_fpn": 128, "keypointrcnn_resnet50_fpn": 128,
}  # fmt: skip
RAW = (
    "ssdlite320_mobilenet_v3_large", "ssd300_vgg16", "fasterrcnn_resnet50_fpn_v2", "retinanet_resnet50_fpn",
    "retinanet_resnet50_fpn_v2", "fcos_resnet50_fpn",
)  # fmt: skip
"""Detectors that are also taken without what selects boxes."""

VIDEO: dict[str, tuple[int, int, dict[str, Any]]] = {
    "r3d_18": (48, 8, {}), "mc3_18": (48, 8, {}), "r2plus1d_18": (48, 8, {}), "s3d": (224, 16, {}),
    "swin3d_t": (64, 4, {}), "mvit_v1_b": (224, 16, {}), "mvit_v2_s": (224, 16, {}),
}  # fmt: skip
"""Image size, frames and options by name; MViT cannot be built for less than 16 frames of 224 x 224."""

ALL_FORMS = (
    ("torchvision", "resnet18"), ("torchvision", "mobilenet_v3_small"), ("torchvision", "shufflenet_v2_x0_5"),
    ("torchvision", "swin_t"), ("timm", "vit_tiny_patch16_224"), ("timm", "convnext_atto"), ("timm", "mobilevit_xxs"),
    ("transformers", "bert"), ("transformers", "llama"), ("transformers", "t5"),
    ("recurrent", "lstm_bidirectional_stacked"), ("others", "unet_upsampled"),
)  # fmt: skip
"""Representative ones, taken in every form."""

DYNAMO_OPSETS = (18, 20, 23, 21, 22)
TORCHSCRIPT_OPSETS = (17, 13, 11, 9, 15, 20)
FORMS = (
    ("dynamo", 18, "static"), ("dynamo", 20, "dynamic"), ("dynamo", 23, "static"), ("dynamo", 23, "free"),
    *(("torchscript", opset, "static") for opset in (9, 11, 13, 17, 20)),
    ("torchscript", 17, "dynamic"), ("torchscript", 11, "dynamic"), ("torchscript", 17, "free"),
)  # fmt: skip

NEEDS = {
    "swin3d_t": 17, "mvit_v1_b": 13, "raft_small": 16, "transformer_post_norm": 13, "transformer_seq2seq": 14,
    "tf_efficientnet_b0": 11, "vit_tiny_r_s16_p8_224": 11, "samvit_base_patch16_224": 12, "coatnet_pico_rw_224": 11,
    "twins_svt_small": 11,
}  # fmt: skip
"""The oldest opset that the torchscript exporter can write these in."""
ONLY_BY = {
    ("transformers", "fnet"): "dynamo", ("transformers", "xlnet"): "torchscript", ("timm", "halonet26t"): "dynamo",
    ("transformers", "nystromformer"): "torchscript",
}  # fmt: skip
"""Networks that one of the exporters cannot write."""
FIXED = {"efficientnet_cc_b0_4e": ("torchscript", 11, "static"), "halonet26t": ("dynamo", 20, "static")}
"""Networks that can be written with fixed shapes only."""
FULL_DETECTOR_OPSET = 17


def models() -> dict[str, list[str]]:
    """Names of the torch networks of each family."""
    from zoo_models import language, others, recurrent

    return {
        "torchvision": list(TORCHVISION),
        "segmentation": list(SEGMENTATION),
        "detection": [*(f"{name}.raw" for name in RAW), *DETECTION],
        "video": [*VIDEO, "raft_small"],
        "timm": list(TIMM),
        "transformers": list(language.MODELS),
        "recurrent": list(recurrent.MODELS),
        "others": list(others.MODELS),
    }


def cases() -> Iterator[Case]:
    """Every network once, by turns through both exporters and their opsets; the representative ones in all forms."""
    chosen: dict[Case, None] = {}
    for family, names in models().items():
        for number, name in enumerate(names):
            chosen[_once(family, name, number)] = None
    for family, name in ALL_FORMS:
        for exporter, opset, form in FORMS:
            chosen[Case(family, name, exporter, opset, form)] = None
    yield from chosen
    yield from _others()


def _once(family: str, name: str, number: int) -> Case:
    if name in FIXED:
        return Case(family, name, *FIXED[name])
    forms = ("static", "dynamic", "static", "free" if family in ("transformers", "recurrent") else "dynamic")
    form = forms[(number // 2) % 4]
    if family == "detection" and not name.endswith(".raw"):
        return Case(family, name, "torchscript", FULL_DETECTOR_OPSET)
    exporter = ONLY_BY.get((family, name), TORCH_EXPORTERS[number % 2])
    if exporter == "dynamo":
        return Case(family, name, "dynamo", DYNAMO_OPSETS[(number // 2) % len(DYNAMO_OPSETS)], form)
    opset = TORCHSCRIPT_OPSETS[(number // 2) % len(TORCHSCRIPT_OPSETS)]
    if family == "transformers":
        opset = max(opset, 14)
    return Case(family, name, "torchscript", max(opset, NEEDS.get(name, 9)), form)


def _others() -> Iterator[Case]:
    from zoo_models.tables import KERAS, SKLEARN

    for number, name in enumerate(KERAS):
        if number % 2 == 0:
            yield Case("keras", name, "keras_torch", (18, 20)[(number // 2) % 2], "dynamic")
        yield Case("keras", name, "tf2onnx", (13, 15, 17, 18)[number % 4], "dynamic")
    for number, name in enumerate(SKLEARN):
        yield Case("sklearn", name, "skl2onnx", (9, 12, 15, 17, 19, 21)[number % 6], "dynamic")


def primary(every: Iterable[Case]) -> dict[tuple[str, str], Case]:
    """The first form of each network: the one that the peers run on."""
    found: dict[tuple[str, str], Case] = {}
    for case in every:
        found.setdefault(case.network, case)
    return found


def network(case: Case) -> Network:
    """The torch network of a case, with random weights."""
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(1)
    name = case.model
    if case.family in ("recurrent", "others"):
        from zoo_models import others, recurrent, small

        return small.small_network((recurrent if case.family == "recurrent" else others).MODELS[name])
    if case.family == "transformers":
        from zoo_models import language

        return language.transformers_model(name, "eager" if case.opset < 14 else None)
    from zoo_models import pictures

    if case.family == "timm":
        size, options = TIMM[name]
        return pictures.timm_model(name, size, plain_attention=case.opset < 14, **options)
    if case.family == "torchvision":
        size, options = TORCHVISION[name]
        return pictures.classification(name, size, **options)
    if case.family == "segmentation":
        return pictures.segmentation(name, SEGMENTATION[name])
    if case.family == "detection":
        plain = name.removesuffix(".raw")
        return pictures.detection(plain, DETECTION[plain], raw=plain != name)
    if name == "raft_small":
        return pictures.optical_flow(name, 128)
    size, frames, options = VIDEO[name]
    return pictures.video(name, size, frames, **options)
