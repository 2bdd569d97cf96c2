from __future__ import annotations

import pytest

from evolve.learning.recipe_rows import TrainingRow
from evolve.training.tokenise import tokenise, tokenise_row, turn_end
from mesh.types import Message, Part
from serving.render import Renderer
from serving.templates import TemplateFacts
from tests.evolve.tiny_tokenizer import make_tokenizer


def row(question: str, answer: str, weight: float = 1.0) -> TrainingRow:
    shown = Message(role="user", parts=(Part(text="Add up.\nWhat is 1 + 1?"),))
    said = Message(role="assistant", parts=(Part(text="2"),))
    asked = Message(role="user", parts=(Part(text=question, trusted=False),))
    return TrainingRow(
        task_id=question, task_type="sum", messages=(shown, said, asked), completion=answer, weight=weight
    )


@pytest.mark.parametrize("chat", [False, True])
def test_rows_are_the_served_prompt_and_the_answer_up_to_where_serving_stops(chat):
    tokenizer = make_tokenizer(chat=chat)
    renderer = Renderer(tokenizer)
    wanted = row("What is 3 + 4?", " 3 + 4 = 7\nAnswer: 7\n")
    found = tokenise_row(renderer, tokenizer, wanted)
    prompt = renderer.render(wanted.messages)
    assert list(found.token_ids[: found.completion_start]) == prompt
    target = tokenizer.decode(found.token_ids[found.completion_start :])
    assert target == ("3 + 4 = 7\nAnswer: 7<|end|>" if chat else " 3 + 4 = 7\nAnswer: 7\n\nQuestion:")


def test_rows_too_long_are_left_out_and_counted_and_weights_average_one():
    tokenizer = make_tokenizer(chat=False)
    rows = (row("What is 3 + 4?", "7", weight=3.0), row("What is 3 + 5?", "8"), row("long " * 200, "1"))
    kept, num_left_out = tokenise(Renderer(tokenizer), tokenizer, rows, 200)
    assert [r.weight for r in kept] == [1.5, 0.5]
    assert num_left_out == 1


def test_an_answer_without_words_is_left_out():
    tokenizer = make_tokenizer(chat=False)
    assert tokenise_row(Renderer(tokenizer), tokenizer, row("What is 3 + 4?", " \n")) is None


def test_a_turn_without_an_end_is_an_error():
    tokenizer = make_tokenizer(chat=False)
    facts = TemplateFacts(has_template=False, accepts_system=True, needs_alternation=True, stop_strings=("\n\n",))
    target = tokenizer.encode("7\nAnswer", add_special_tokens=False)
    with pytest.raises(ValueError, match="expected an assistant turn to end"):
        turn_end(target, facts, tokenizer)
