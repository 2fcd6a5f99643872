"""Made-up weights and clips of the reference outputs beside this file; NumPy alone.

All numbers are drawn from integers: sha256(name) -> PCG64's 64-bit words -> four 16-bit pieces per word -> their
scaled sum (mean 0, variance 1, at most 3.47). Weights are bit-equal on every platform.
"""

import hashlib

import numpy as np

RATE = 16000


def noise(name, shape):
    """float64 values, near-normal, that depend on the name alone."""
    n = int(np.prod(shape, dtype=np.int64))
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], "little")
    raw = np.random.PCG64(seed).random_raw(max(n, 1)).astype("<u8").view("<u2")
    total = raw[0::4].astype(np.int32) + raw[1::4] + raw[2::4] + raw[3::4] - 2 * 65535
    return (total[:n] / (65536.0 / np.sqrt(3.0))).reshape(shape)


SIMPLE = {
    "grep_a": lambda n: 1 + 0.3 * n,
    "weight_g": lambda n: np.sqrt(6.0) * (1 + 0.2 * n),  # weight norm: |v| over dims 0 and 1 is near sqrt(6)
    "extra_tokens": lambda n: 0.5 * n,
    "running_mean": lambda n: 0.1 * n,
    "running_var": lambda n: (1 + 0.1 * n) ** 2,
    "bias": lambda n: 0.02 * n,
}


def tensor(name, shape):
    """The float32 weight of a name in a state dict; the first rule that fits wins."""
    shape = tuple(int(size) for size in shape)
    n = noise(name, shape)
    leaf = name.rsplit(".", 1)[-1]
    if leaf in SIMPLE:
        t = SIMPLE[leaf](n)
    elif "relative_attention_bias" in name:  # strong, so that errors of buckets and gates show
        t = 1.5 * n
    elif len(shape) == 1:  # the scale of a norm
        t = 1 + 0.1 * n
    else:
        t = n / np.sqrt(np.prod(shape[1:], dtype=np.float64))
        if name.endswith("attn.qkv.weight"):  # EAT has no deep norm: sharper q and k and a weaker projection
            t[: 2 * shape[0] // 3] *= 3  # keep its tokens apart through 12 or 24 blocks
        elif name.endswith("attn.proj.weight"):
            t *= 0.5
    return t.astype(np.float32)


def clip(seconds, seed=0):
    """float32 waveform in [-1, 1] at 16 kHz: harmonics, slow and fast modulation, one burst, noise."""
    n = round(seconds * RATE)
    t = np.arange(n) / RATE
    f0 = 87.0 + 13.0 * (seed % 7)
    x = np.zeros(n)
    for h, a in ((1, 0.30), (2, 0.22), (3, 0.16), (5, 0.12), (9, 0.08), (17, 0.06), (31, 0.04)):
        slow = 1 + 0.6 * np.sin(2 * np.pi * (0.31 + 0.13 * h) * t + h + seed)
        vibrato = 1.5 * np.sin(2 * np.pi * 0.7 * t)
        x += a * slow * np.sin(2 * np.pi * f0 * h * t + vibrato + 0.5 * h * h + seed)
    x += 0.25 * np.exp(-(((t - 0.37 * seconds) / 0.08) ** 2)) * noise(f"burst {seed}", (n,))
    x += (0.02 + 0.015 * np.sin(2 * np.pi * 1.7 * t)) * noise(f"clip {seed}", (n,))
    return np.clip(0.45 * x, -1, 1).astype(np.float32)
