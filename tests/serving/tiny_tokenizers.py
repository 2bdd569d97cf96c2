"""Tokenizers made on the spot, one for each way in which families write and read turns; and the real ones, if there."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

MODELS = Path(__file__).parents[2] / "models"

CHATML = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n"
    "{% endif %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NO_SYSTEM_ALTERNATING = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system role') }}"
    "{% endif %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('must alternate') }}"
    "{% endif %}<|im_start|>{{ m['role'] }}\n{{ m['content'] | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>model\n{% endif %}"
)
GEMMA = NO_SYSTEM_ALTERNATING.replace("<|im_start|>", "<start_of_turn>").replace("<|im_end|>", "<end_of_turn>")
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
TEXT_MARKERS = (
    "{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% elif m['role'] == 'assistant' %} {{ m['content'] }}{{ eos_token }}{% else %}<<SYS>>{{ m['content'] }}<</SYS>>"
    "{% endif %}{% endfor %}"
)
THINKS = (
    "{% if tools %}<tools>{{ tools | tojson }}</tools>{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['reasoning_content'] %}<think>\n{{ m['reasoning_content'] }}\n</think>\n\n"
    "{% elif m['role'] == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m['content'] }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
SPECIAL = (
    *("<bos>", "<eos>", "<|im_start|>", "<|im_end|>", "<start_of_turn>", "<end_of_turn>"),
    *("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
)
ADDED = ("<think>", "</think>", "[multimodal]", "<tool_call>")


def tiny_tokenizer(
    template: str | None, *, added: tuple[str, ...] = ADDED, normalizer: Any = None, normalized: bool = False
) -> PreTrainedTokenizerFast:
    """Bytes, special tokens, and added ones that are structure without being called special.

    `normalized`: the added ones are looked for in the text that `normalizer` made.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={sign: number for number, sign in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return _complete(backend, template, added, normalizer, normalized)


def word_piece_tokenizer(template: str | None) -> PreTrainedTokenizerFast:
    """As SentencePiece does it: blanks written as signs, one put first, and bytes for what the vocabulary lacks."""
    signs = [*map(chr, range(33, 127)), "▁", "é"]
    vocab = {"<unk>": 0, **{f"<0x{number:02X}>": number + 1 for number in range(256)}}
    vocab |= {sign: 257 + number for number, sign in enumerate(signs)}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    spaces = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return _complete(backend, template, ADDED, spaces, normalized=False)


def unigram_tokenizer(template: str | None) -> PreTrainedTokenizerFast:
    """Control tokens are ordinary pieces of the vocabulary, the likeliest of all: plain text would be read as them."""
    signs = [*map(chr, range(33, 127)), "▁", "\n"]
    pieces = [("<unk>", -20.0), *((text, 0.0) for text in SPECIAL), *((sign, -5.0) for sign in signs)]
    backend = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=False))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    backend.decoder = decoders.Metaspace(prepend_scheme="never", split=False)
    return _complete(backend, template, ADDED, normalizers.NFKC(), normalized=True)


def _complete(
    backend: Tokenizer, template: str | None, added: tuple[str, ...], normalizer: Any, normalized: bool
) -> PreTrainedTokenizerFast:
    if normalizer is not None:
        backend.normalizer = normalizer
    backend.add_special_tokens([AddedToken(text, special=True) for text in SPECIAL])
    backend.add_tokens([AddedToken(text, special=False, normalized=normalized) for text in added])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<bos>", eos_token="<eos>")
    tokenizer.chat_template = template
    return tokenizer


def without_invisible_signs() -> Any:
    """A normaliser that makes look-alikes plain, drops what is not seen, and knows no capital letters."""
    unseen = normalizers.Replace(Regex("[\u200b-\u200f\u2060\ufeff\u00ad]"), "")
    return normalizers.Sequence([unseen, normalizers.NFKC(), normalizers.Lowercase()])


@cache
def tokenizers() -> dict[str, Any]:
    """By what is special about each. The real ones are left out where the models are not prepared."""
    folding = {"normalizer": without_invisible_signs(), "normalized": True}
    made = {
        "ChatML": tiny_tokenizer(CHATML),
        "turns of Gemma": tiny_tokenizer(GEMMA),
        "headers of Llama 3": tiny_tokenizer(LLAMA3),
        "markers that are words": tiny_tokenizer(TEXT_MARKERS),
        "no template": tiny_tokenizer(None),
        "thinks, marks are tokens": tiny_tokenizer(THINKS),
        "thinks, marks are words": tiny_tokenizer(THINKS, added=()),
        "folds, tokens": tiny_tokenizer(CHATML, **folding),
        "folds, words": tiny_tokenizer(TEXT_MARKERS, **folding),
        "folds, no template": tiny_tokenizer(None, **folding),
        "signs for blanks, tokens": word_piece_tokenizer(CHATML),
        "signs for blanks, words": word_piece_tokenizer(TEXT_MARKERS),
        "signs for blanks, no template": word_piece_tokenizer(None),
        "control tokens are pieces": unigram_tokenizer(LLAMA3),
    }
    return made | real_tokenizers()


@cache
def real_tokenizers() -> dict[str, Any]:
    """SmolLM2's, as it is."""
    directory = MODELS / "smollm2-135m-instruct"
    return {"SmolLM2": AutoTokenizer.from_pretrained(directory)} if directory.is_dir() else {}
