"""Training rows as token ids: the prompt exactly as serving renders it, the answer up to where serving stops."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from evolve.learning.recipe_rows import PreferenceRow, TrainingRow
from evolve.training.pack import TokenPair, TokenRow
from mesh.types import Message, Part
from serving.render import Renderer
from serving.templates import TemplateFacts, Tokenizer

_NEXT_TURN = Message(role="user", parts=(Part(text="."),))


def tokenise_row(renderer: Renderer, tokenizer: Tokenizer, row: TrainingRow) -> TokenRow | None:
    """The row, ending in the turn's terminator (an end token or a stop string), so that the model learns to stop.

    None where the answer does not continue the prompt token by token: what would be learned is not what is served.
    Raises RenderError where the template refuses the conversation, ValueError where its assistant turns have no end.
    """
    # Blanks around the answer are the template's business: plain text puts one before it, chat templates none.
    answer = Message(role="assistant", parts=(Part(text=row.completion.strip()),))
    prompt = renderer.render(row.messages)
    whole = renderer.render((*row.messages, answer, _NEXT_TURN))
    if whole[: len(prompt)] != prompt or not row.completion.strip():
        return None
    target = whole[len(prompt) :]
    end = turn_end(target, renderer.facts, tokenizer)
    return TokenRow((*prompt, *target[:end]), len(prompt), row.weight)


def tokenise(
    renderer: Renderer, tokenizer: Tokenizer, rows: Iterable[TrainingRow], max_length: int
) -> tuple[list[TokenRow], int]:
    """Rows of at most `max_length` tokens, their weights scaled to a mean of 1; and the number of rows left out.

    A row is left out rather than cut: a cut answer would teach the model not to finish.
    """
    found = [tokenise_row(renderer, tokenizer, row) for row in rows]
    kept = [row for row in found if row is not None and len(row.token_ids) <= max_length]
    mean = sum(row.weight for row in kept) / len(kept) if kept else 1.0
    return [row._replace(weight=row.weight / mean) for row in kept], len(found) - len(kept)


def tokenise_pairs(
    renderer: Renderer, tokenizer: Tokenizer, pairs: Iterable[PreferenceRow], max_length: int
) -> tuple[list[TokenPair], int]:
    """Pairs of which both texts are fit as rows are, their weights scaled to a mean of 1; and the number left out.

    A pair whose texts are the same tokens teaches nothing and is left out as well.
    """
    found = [_tokenise_pair(renderer, tokenizer, pair) for pair in pairs]
    kept = [
        pair
        for pair in found
        if pair is not None and max(len(pair.chosen.token_ids), len(pair.rejected.token_ids)) <= max_length
    ]
    mean = sum(pair.weight for pair in kept) / len(kept) if kept else 1.0
    return [pair._replace(weight=pair.weight / mean) for pair in kept], len(found) - len(kept)


def _tokenise_pair(renderer: Renderer, tokenizer: Tokenizer, pair: PreferenceRow) -> TokenPair | None:
    sides = [
        tokenise_row(
            renderer,
            tokenizer,
            TrainingRow(task_id=pair.task_id, task_type=pair.task_type, messages=pair.messages, completion=text),
        )
        for text in (pair.chosen, pair.rejected)
    ]
    if sides[0] is None or sides[1] is None or sides[0].token_ids == sides[1].token_ids:
        return None
    return TokenPair(sides[0], sides[1], pair.weight)


def turn_end(target: Sequence[int], facts: TemplateFacts, tokenizer: Tokenizer) -> int:
    """How many tokens of `target` there are up to and with the first end token or complete stop string.

    Raises:
        ValueError: neither occurs, so serving could not tell where the answer ends either.
    """
    for index, token in enumerate(target):
        if token in facts.stop_token_ids:
            return index + 1
        if facts.stop_strings:
            text = tokenizer.decode(list(target[: index + 1]), clean_up_tokenization_spaces=False)
            if any(stop in text for stop in facts.stop_strings):
                return index + 1
    raise ValueError(
        f"expected an assistant turn to end in a token of {facts.stop_token_ids} or a string of {facts.stop_strings}, "
        f"got {tokenizer.decode(list(target))!r}; check the tokenizer's chat template and end token"
    )
