"""Small adapters on disk, written by hand, so that readers are not tested against their own library."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np

from serving.adapters import Adapter, AdapterStore
from serving.admission import BaseModelShape

MODULE = "model.layers.0.self_attn.q_proj"
RANK, NUM_IN, NUM_OUT = 2, 4, 3
BASE = BaseModelShape(name="tiny", fingerprint="f" * 64, matrices={MODULE: (NUM_OUT, NUM_IN)})


def admitted(store: AdapterStore, scratch: Path, value: float = 1.0) -> Adapter:
    """An adapter in `store`; another value, another hash."""
    directory = scratch / f"lora-{value:g}"
    directory.mkdir(parents=True, exist_ok=True)
    weights = {
        f"base_model.model.{MODULE}.lora_A.weight": np.full((RANK, NUM_IN), value, np.float32),
        f"base_model.model.{MODULE}.lora_B.weight": np.full((NUM_OUT, RANK), value, np.float32),
    }
    header, data = {}, b""
    for name, tensor in weights.items():
        end = len(data) + tensor.nbytes
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [len(data), end]}
        data += tensor.tobytes()
    text = json.dumps(header).encode()
    (directory / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 4, "target_modules": ["q_proj"]}
    (directory / "adapter_config.json").write_text(json.dumps(config))
    return store.admit(directory, BASE, max_rank=8)
