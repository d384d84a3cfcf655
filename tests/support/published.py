"""What the papers print and the libraries build: networks, their dialects and their counts."""

from mnet_jax.analysis import cost
from mnet_jax.architectures import FACTORIES

V1, V2 = "mobilenet_v1", "mobilenet_v2"
V3L, V3S = "mobilenet_v3_large", "mobilenet_v3_small"
V4S, V4M, V4L = (f"mobilenet_v4_conv_{size}" for size in ("small", "medium", "large"))
V4HM, V4HL = (f"mobilenet_v4_hybrid_{size}" for size in ("medium", "large"))
DIALECTS = {  # of each network, whoever built it first
    V1: ("paper", "slim", "keras", "timm"),
    V2: ("paper", "slim", "keras", "torchvision", "timm"),
    V3L: ("paper", "slim", "keras", "torchvision", "timm"),
    V3S: ("paper", "slim", "keras", "torchvision", "timm"),
    V4S: ("paper", "timm"),
    V4M: ("paper", "timm"),
    V4L: ("paper", "timm"),
    V4HM: ("paper", "timm"),
    V4HL: ("paper", "timm"),
}

# network, options, trainable, with BatchNorm statistics (None: not published), MAdds in millions
COUNTS = [
    (V1, {}, 4_231_976, 4_253_864, {224: 568.7, 192: 418.1, 160: 290.7, 128: 186.4}),
    (V1, {"width": 0.75}, 2_585_560, 2_601_976, {224: 325.4}),
    (V1, {"width": 0.5}, 1_331_592, 1_342_536, {224: 149.5}),
    (V1, {"width": 0.25}, 470_072, 475_544, {224: 41.0}),
    (V1, {"convolution": "full"}, 29_294_088, None, {224: 4867}),
    (V1, {"depth": "shallow"}, 2_887_976, None, {224: 307.3}),
    (V2, {"width": 1.4}, 6_108_776, 6_156_712, {224: 582.2}),
    (V2, {}, 3_504_872, 3_538_984, {224: 300.8}),
    (V2, {"width": 0.75}, 2_636_424, 2_663_064, {224: 209.1}),
    (V2, {"width": 0.5}, 1_968_680, 1_987_224, {224: 97.1}),
    (V2, {"expansion": 1}, 1_871_432, None, {224: 63.7}),
    (V2, {"expansion": 3}, 2_601_416, None, {224: 171.5}),
    (V2, {"expansion": 10}, 4_709_480, None, {224: 473.1}),
    (V3L, {}, 5_483_032, 5_507_432, {224: 216.6}),
    (V3L, {"minimalistic": True}, 3_924_288, 3_948_688, {224: 209.1}),
    (V3S, {}, 2_542_856, 2_554_968, {224: 56.5}),
    (V3S, {"minimalistic": True}, 2_044_736, 2_056_848, {224: 52.3}),
    (V4S, {}, 3_774_024, 3_799_112, {224: 186}),
    (V4M, {}, 9_715_512, 9_783_416, {256: 1080}),
    (V4L, {}, 32_590_864, 32_740_416, {384: 6376}),
    (V4HM, {}, 11_074_648, 11_150_488, {256: 1271.2}),  # MAdds: PyTorch's FlopCounterMode, timm's
    (V4HL, {}, 37_764_624, 37_929_024, {384: 7711.9}),  # network
    (V4HM, {"width": 0.75, "dialect": "timm"}, 7_313_528, 7_371_368, {224: 649.8}),
    (V4HL, {"width": 0.75, "dialect": "timm"}, 22_754_984, 22_879_064, {}),
]

# Published figures that are not what arithmetic gives; the document says why.
DISCREPANCIES = {
    "V2 Table 4, 1.4": (V2, {"width": 1.4}, "params", 6.9e6),
    "V2 Table 4, 1.0": (V2, {}, "params", 3.4e6),
    "V2 Table 4, 1.4 MAdds": (V2, {"width": 1.4}, "madds", 585e6),
    "TF-slim's README, V1 0.75": (V1, {"width": 0.75}, "madds", 317e6),
    "V3 Table 3, Large": (V3L, {}, "params", 5.4e6),
    "V3 Table 3, Large MAdds": (V3L, {}, "madds", 219e6),
    "TF-slim's README, V3-Small": (V3S, {}, "params", 2.9e6),
    "TF-slim's README, V3-Small MAdds": (V3S, {}, "madds", 66e6),
    "TF-slim's README, V3-Small 0.75": (V3S, {"width": 0.75}, "params", 2.4e6),
    "TF-slim's README, V3-Small 0.75 MAdds": (V3S, {"width": 0.75}, "madds", 44e6),
    "TF-slim's README, V3-Small minimalistic MAdds": (V3S, {"minimalistic": True}, "madds", 65e6),
    "V4 paper, Conv-M": (V4M, {}, "params", 9.2e6),
    "V4 paper, Conv-L": (V4L, {}, "params", 31e6),
}


def spec_of(network, options):
    return FACTORIES[network](**options)


def discrepant(network, options, quantity):
    """Our count of what a row of `DISCREPANCIES` publishes."""
    resolution = {V4M: 256, V4L: 384}.get(network, 224)
    return getattr(cost.count(spec_of(network, options), resolution), quantity)
