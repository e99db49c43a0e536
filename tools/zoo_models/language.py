"""Networks of the transformers library from tiny configurations, with the head that hides the residual stream."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from zoo_models.case import Network
from zoo_models.weights import randomize

WIDTH, LAYERS, HEADS, INNER, TOKENS, LENGTH, IMAGE, CLASSES = 64, 2, 4, 128, 200, 16, 64, 12

TINY: dict[str, Any] = {
    "hidden_size": WIDTH, "d_model": WIDTH, "n_embd": WIDTH, "dim": WIDTH, "embedding_size": WIDTH,
    "num_hidden_layers": LAYERS, "encoder_layers": LAYERS, "decoder_layers": LAYERS, "n_layer": LAYERS,
    "n_layers": LAYERS, "num_layers": LAYERS, "num_decoder_layers": LAYERS,
    "num_attention_heads": HEADS, "encoder_attention_heads": HEADS, "decoder_attention_heads": HEADS,
    "n_head": HEADS, "n_heads": HEADS, "num_heads": HEADS, "num_key_value_heads": 2,
    "intermediate_size": INNER, "encoder_ffn_dim": INNER, "decoder_ffn_dim": INNER, "ffn_dim": INNER,
    "hidden_dim": INNER, "d_ff": INNER, "n_inner": INNER, "head_dim": 16, "d_kv": 16,
    "vocab_size": TOKENS, "max_position_embeddings": 64, "n_positions": 64, "max_seq_len": 64,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
    "image_size": IMAGE, "patch_size": 16, "num_labels": CLASSES,
}  # fmt: skip


class Outputs(nn.Module):
    """The named entries of what a transformers model returns, as tensors."""

    def __init__(self, module: nn.Module, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.module, self.inputs, self.outputs = module, inputs, outputs

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        options: dict[str, Any] = {"return_dict": True}
        if hasattr(self.module.config, "use_cache"):
            options["use_cache"] = False
        found = self.module(**dict(zip(self.inputs, inputs, strict=True)), **options)
        return tuple(found[name] for name in self.outputs)


def ids(count: int) -> torch.Tensor:
    """Token numbers, N x LENGTH."""
    return torch.randint(3, TOKENS, (count, LENGTH))


def mask(count: int) -> torch.Tensor:
    """The last tokens of the first sentence are padding."""
    open_tokens = torch.ones(count, LENGTH, dtype=torch.int64)
    open_tokens[0, -3:] = 0
    return open_tokens


def states(count: int) -> torch.Tensor:
    """What an encoder gives to a decoder, N x LENGTH x WIDTH."""
    return torch.randn(count, LENGTH, WIDTH)


def pixels(count: int) -> torch.Tensor:
    """Images, N x 3 x IMAGE x IMAGE."""
    return torch.randn(count, 3, IMAGE, IMAGE)


def sound(count: int) -> torch.Tensor:
    """A wave, N x samples."""
    return torch.randn(count, 3200)


Input = Callable[[int], torch.Tensor]
TEXT: dict[str, Input] = {"input_ids": ids, "attention_mask": mask}


@dataclass(frozen=True)
class Tiny:
    """A transformers class with its configuration, inputs and outputs."""

    model: str
    config: str
    options: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Input] = field(default_factory=lambda: TEXT)
    outputs: tuple[str, ...] = ("logits",)
    part: Callable[[nn.Module], nn.Module] | None = None
    attention: str = "sdpa"


PIXELS: dict[str, Input] = {"pixel_values": pixels}
SOUND: dict[str, Input] = {"input_values": sound}
HIDDEN = ("last_hidden_state",)
BOXES = ("logits", "pred_boxes")
RESNET: dict[str, Any] = {
    "embedding_size": 16, "hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1], "layer_type": "basic"
}  # fmt: skip


def _mel(count: int) -> torch.Tensor:
    return torch.randn(count, 20, 64)


def _spectrum(count: int) -> torch.Tensor:
    return torch.randn(count, 64, 32)


def _resnet_backbone() -> Any:
    import transformers

    return transformers.ResNetConfig(**RESNET, out_features=["stage4"])


def _detr(**options: Any) -> dict[str, Any]:
    return {
        "use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None,
        "backbone_config": _resnet_backbone, "num_queries": 10, **options,
    }  # fmt: skip


def _conv_sound(**options: Any) -> dict[str, Any]:
    return {
        "conv_dim": (32, 32, 32), "conv_kernel": (10, 3, 3), "conv_stride": (5, 4, 2), "num_feat_extract_layers": 3,
        "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, "classifier_proj_size": 32,
        "hidden_size": WIDTH, **options,
    }  # fmt: skip


STAGES: dict[str, Any] = {
    "embed_dim": 24, "depths": [1, 1, 2], "num_heads": [2, 4, 4], "window_size": 4, "patch_size": 4
}  # fmt: skip
PYRAMID: dict[str, Any] = {
    "hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 3, 4], "patch_size": 4
}  # fmt: skip


def text_model(name: str, task: str = "ForSequenceClassification", **options: Any) -> Tiny:
    """An encoder for text with a head."""
    return Tiny(f"{name}{task}", f"{name}Config", options)


def causal(name: str, config: str | None = None, **options: Any) -> Tiny:
    """A decoder for text with its language model head."""
    return Tiny(f"{name}ForCausalLM", config or f"{name}Config", options)


def image_model(name: str, task: str = "ForImageClassification", **options: Any) -> Tiny:
    """A network for images with a head."""
    return Tiny(f"{name}{task}", f"{name}Config", options, PIXELS)


def encoder_of(module: nn.Module) -> nn.Module:
    """The encoder half of an encoder-decoder."""
    return module.get_encoder()


MODELS: dict[str, Tiny] = {
    "bert": text_model("Bert"),
    "bert_encoder": Tiny("BertModel", "BertConfig", outputs=HIDDEN),
    "bert_pooled": Tiny("BertModel", "BertConfig", outputs=("pooler_output",)),
    "roberta_mlm": text_model("Roberta", "ForMaskedLM"),
    "distilbert": text_model("DistilBert"),
    "albert": text_model("Albert", embedding_size=32),
    "electra": text_model("Electra", embedding_size=32),
    "mpnet": text_model("MPNet"),
    "deberta": text_model("Deberta", pos_att_type=["c2p", "p2c"], relative_attention=True),
    "deberta_v2": text_model("DebertaV2", pos_att_type=["c2p", "p2c"], relative_attention=True),
    "mobilebert": text_model("MobileBert", embedding_size=32, intra_bottleneck_size=32),
    "squeezebert": text_model("SqueezeBert"),
    "convbert": text_model("ConvBert"),
    "fnet": Tiny("FNetForSequenceClassification", "FNetConfig", {}, {"input_ids": ids}),
    "funnel": text_model("Funnel", block_sizes=[1, 1], d_head=16, d_inner=INNER),
    "modernbert": text_model("ModernBert", global_attn_every_n_layers=2, local_attention=8),
    "nystromformer": Tiny(
        "NystromformerForSequenceClassification", "NystromformerConfig",
        {"num_landmarks": LENGTH, "segment_means_seq_len": LENGTH, "conv_kernel_size": 5}, {"input_ids": ids},
    ),
    "roformer": text_model("RoFormer"),
    "xlnet": text_model("XLNet", d_inner=INNER),
    "esm": text_model("Esm", "ForMaskedLM", position_embedding_type="rotary", mask_token_id=4),
    "gpt2": Tiny("GPT2LMHeadModel", "GPT2Config", {}, {"input_ids": ids}),
    "gpt2_mask": Tiny("GPT2LMHeadModel", "GPT2Config"),
    "gpt_neo": causal("GPTNeo", attention_types=[[["global", "local"], 1]], window_size=8),
    "gptj": causal("GPTJ", rotary_dim=8),
    "gpt_neox": causal("GPTNeoX"),
    "opt": causal("OPT", word_embed_proj_dim=WIDTH),
    "bloom": causal("Bloom"),
    "falcon": causal("Falcon"),
    "mpt": causal("Mpt", expansion_ratio=2),
    "llama": causal("Llama"),
    "mistral": causal("Mistral"),
    "mixtral": causal("Mixtral", num_local_experts=4),
    "qwen2": causal("Qwen2"),
    "qwen3": causal("Qwen3"),
    "gemma": causal("Gemma"),
    "gemma2": causal("Gemma2"),
    "gemma3": causal("Gemma3", "Gemma3TextConfig"),
    "phi": causal("Phi"),
    "phi3": causal("Phi3"),
    "stablelm": causal("StableLm"),
    "starcoder2": causal("Starcoder2"),
    "olmo": causal("Olmo"),
    "olmo2": causal("Olmo2"),
    "cohere": causal("Cohere"),
    "granite": causal("Granite"),
    "nemotron": causal("Nemotron"),
    "codegen": causal("CodeGen", rotary_dim=8),
    "mamba": causal("Mamba", state_size=8, time_step_rank=8),
    "smollm3": causal("SmolLM3"),
    "t5_encoder": Tiny("T5EncoderModel", "T5Config", outputs=HIDDEN),
    "t5": Tiny(
        "T5ForConditionalGeneration", "T5Config", {"feed_forward_proj": "gated-gelu"},
        {**TEXT, "decoder_input_ids": ids},
    ),
    "t5_decoder": Tiny(
        "T5ForConditionalGeneration", "T5Config", {},
        {"decoder_input_ids": ids, "encoder_outputs": states},
    ),
    "mt5": Tiny("MT5ForConditionalGeneration", "MT5Config", {}, {**TEXT, "decoder_input_ids": ids}),
    "bart": Tiny("BartForConditionalGeneration", "BartConfig", {}, {**TEXT, "decoder_input_ids": ids}),
    "marian": Tiny("MarianMTModel", "MarianConfig", {}, {**TEXT, "decoder_input_ids": ids}),
    "pegasus": Tiny("PegasusForConditionalGeneration", "PegasusConfig", {}, {**TEXT, "decoder_input_ids": ids}),
    "m2m_100": Tiny("M2M100ForConditionalGeneration", "M2M100Config", {}, {**TEXT, "decoder_input_ids": ids}),
    "bart_encoder": Tiny("BartModel", "BartConfig", {}, TEXT, HIDDEN, encoder_of),
    "whisper_encoder": Tiny(
        "WhisperModel", "WhisperConfig", {"num_mel_bins": 20, "max_source_positions": 32},
        {"input_features": _mel}, HIDDEN, encoder_of,
    ),
    "whisper": Tiny(
        "WhisperForConditionalGeneration", "WhisperConfig",
        {"num_mel_bins": 20, "max_source_positions": 32, "max_target_positions": 32},
        {"input_features": _mel, "decoder_input_ids": ids},
    ),
    "whisper_decoder": Tiny(
        "WhisperForConditionalGeneration", "WhisperConfig",
        {"num_mel_bins": 20, "max_source_positions": 32, "max_target_positions": 32},
        {"decoder_input_ids": ids, "encoder_outputs": states},
    ),
    "wav2vec2": Tiny("Wav2Vec2ForCTC", "Wav2Vec2Config", _conv_sound(), SOUND),
    "wav2vec2_stable": Tiny(
        "Wav2Vec2ForSequenceClassification", "Wav2Vec2Config",
        _conv_sound(do_stable_layer_norm=True, feat_extract_norm="layer"), SOUND,
    ),
    "hubert": Tiny("HubertForCTC", "HubertConfig", _conv_sound(), SOUND),
    "wavlm": Tiny("WavLMForCTC", "WavLMConfig", _conv_sound(), SOUND),
    "ast": Tiny(
        "ASTForAudioClassification", "ASTConfig",
        {"max_length": 64, "num_mel_bins": 32, "patch_size": 8, "frequency_stride": 8, "time_stride": 8},
        {"input_values": _spectrum},
    ),
    "vit": image_model("ViT"),
    "deit": image_model("DeiT"),
    "beit": image_model("Beit", use_relative_position_bias=True),
    "dinov2": image_model("Dinov2"),
    "swin": image_model("Swin", **STAGES),
    "swinv2": image_model("Swinv2", **STAGES),
    "convnext": image_model("ConvNext", hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 1, 1], patch_size=4),
    "convnextv2": image_model("ConvNextV2", hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 1, 1], patch_size=4),
    "cvt": image_model("Cvt", embed_dim=[16, 32, 64], num_heads=[1, 2, 4], depth=[1, 2, 3]),
    "levit": image_model(
        "Levit", hidden_sizes=[32, 48, 64], num_attention_heads=[2, 3, 4], depths=[1, 1, 1], key_dim=[8, 8, 8]
    ),
    "pvt": image_model("Pvt", **PYRAMID, patch_sizes=[4, 2, 2, 2]),
    "mobilevit": image_model(
        "MobileViT", hidden_sizes=[32, 48, 64], neck_hidden_sizes=[8, 16, 24, 32, 40, 48, 96], patch_size=2
    ),
    "poolformer": image_model("PoolFormer", hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 1, 1], patch_size=4),
    "focalnet": image_model(
        "FocalNet", embed_dim=24, depths=[1, 1, 1], hidden_sizes=[24, 48, 96], focal_levels=[2, 2, 2],
        focal_windows=[3, 3, 3], patch_size=4,
    ),
    "resnet": image_model("ResNet", **RESNET),
    "regnet": image_model(
        "RegNet", embedding_size=16, hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 1, 1], groups_width=8
    ),
    "mobilenet_v1": image_model("MobileNetV1", depth_multiplier=0.5),
    "segformer": image_model(
        "Segformer", "ForSemanticSegmentation", **PYRAMID, patch_sizes=[7, 3, 3, 3], decoder_hidden_size=32
    ),
    "segformer_cls": image_model("Segformer", **PYRAMID, patch_sizes=[7, 3, 3, 3]),
    "dpt": Tiny(
        "DPTForDepthEstimation", "DPTConfig",
        {
            "num_hidden_layers": 4, "backbone_out_indices": [0, 1, 2, 3],
            "neck_hidden_sizes": [16, 32, 32, 32], "fusion_hidden_size": 32,
            "reassemble_factors": [4, 2, 1, 0.5], "is_hybrid": False,
        },
        PIXELS, ("predicted_depth",),
    ),
    "glpn": Tiny(
        "GLPNForDepthEstimation", "GLPNConfig", {**PYRAMID, "decoder_hidden_size": 32}, PIXELS, ("predicted_depth",)
    ),
    "detr": Tiny("DetrForObjectDetection", "DetrConfig", _detr(), PIXELS, BOXES),
    "conditional_detr": Tiny("ConditionalDetrForObjectDetection", "ConditionalDetrConfig", _detr(), PIXELS, BOXES),
    "yolos": Tiny(
        "YolosForObjectDetection", "YolosConfig", {"image_size": [IMAGE, IMAGE], "num_detection_tokens": 10},
        PIXELS, BOXES,
    ),
    "clip": Tiny(
        "CLIPModel", "CLIPConfig", {"text_config": TINY, "vision_config": TINY, "projection_dim": 32},
        {"input_ids": ids, "pixel_values": pixels, "attention_mask": mask}, ("logits_per_image",),
    ),
    "clip_vision": Tiny(
        "CLIPVisionModelWithProjection", "CLIPVisionConfig", {"projection_dim": 32}, PIXELS, ("image_embeds",)
    ),
    "clip_text": Tiny("CLIPTextModelWithProjection", "CLIPTextConfig", {"projection_dim": 32}, TEXT, ("text_embeds",)),
    "siglip_vision": Tiny("SiglipVisionModel", "SiglipVisionConfig", {}, PIXELS, ("pooler_output",)),
    "layoutlm": text_model("LayoutLM"),
    "trocr": causal("TrOCR", "TrOCRConfig"),
}  # fmt: skip


def transformers_model(name: str, attention: str | None = None) -> Network:
    """A tiny network of the transformers library with random weights."""
    import transformers

    tiny = MODELS[name]
    kind = getattr(transformers, tiny.config)
    options = _tiny_options(kind, tiny.options)
    options |= {key: value() if callable(value) else value for key, value in tiny.options.items()}
    torch.manual_seed(0)
    config = kind(**options)
    try:
        config._attn_implementation = attention or tiny.attention
        module = getattr(transformers, tiny.model)(config)
    except ValueError:
        config._attn_implementation = "eager"
        module = getattr(transformers, tiny.model)(config)
    module = tiny.part(module) if tiny.part else module
    names = tuple(tiny.inputs)

    def sample(count: int) -> tuple[torch.Tensor, ...]:
        return tuple(tiny.inputs[name](count) for name in names)

    wrapped = Outputs(_Packed(module) if "encoder_outputs" in names else module, names, tiny.outputs)
    randomize(wrapped, lambda: wrapped(*sample(4)))
    free = {i: {1: "tokens"} for i, name in enumerate(names) if name.endswith(("ids", "mask"))}
    return Network(wrapped, sample, free)


def _tiny_options(kind: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of TINY that a configuration knows and that do not stand for one of those given."""
    defaults, alias = vars(kind()), getattr(kind, "attribute_map", {})
    options: dict[str, Any] = {"num_labels": CLASSES}
    for key, value in TINY.items():
        target = alias.get(key, key)
        staged = isinstance(defaults.get(target), list | tuple) or (
            "layers" in key and {"depths", "depth"} & set(given)
        )
        if target in defaults and target not in given and not staged:
            options[key] = value
    return options


class _Packed(nn.Module):
    """Gives the states of an encoder as the tuple that a decoder takes."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module, self.config = module, module.config

    def forward(self, *, encoder_outputs: torch.Tensor, **options: Any) -> Any:
        return self.module(encoder_outputs=(encoder_outputs,), **options)
