"""A byte tokenizer made on the spot, with or without a chat template."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|turn|>' + m['role'] + '\n' + m['content'] + '<|end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|turn|>assistant\n' }}{% endif %}"
)


def make_tokenizer(*, chat: bool) -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(BPE(vocab={sign: number for number, sign in enumerate(alphabet)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    ends = {"eos_token": "<|end|>", "additional_special_tokens": ["<|turn|>"]} if chat else {"eos_token": "</s>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", **ends)
    if chat:
        tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
