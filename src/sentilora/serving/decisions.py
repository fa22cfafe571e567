"""`POST /v1/decisions` in the format of OpenAI's decision models."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Response
from pydantic import Field

from sentilora.serving.errors import Refusal
from sentilora.serving.questions import Decision, Questioner, as_text, distinct, together
from sentilora.serving.routing import ERRORS, JsonRoute, Services, Strict, reply


class TextPart(Strict):
    """A text as a part of a message or of instructions."""

    type: Literal["input_text"]
    text: str
    prompt_cache_breakpoint: dict[str, Any] | None = None


class JsonPart(Strict):
    """Data as a part of a message or of instructions; it is read as JSON text."""

    type: Literal["input_json"]
    data: dict[str, Any] | list[dict[str, Any]]


Content = str | list[Annotated[TextPart | JsonPart, Field(discriminator="type")]]


class UserMessage(Strict):
    """A message of the user's."""

    role: Literal["user"]
    type: Literal["message"] = "message"
    content: Content


class Choice(Strict):
    """An option. A boolean is another value than its name."""

    value: Annotated[str, Field(min_length=1)] | bool
    description: str | None = None


class ChoiceQuestion(Strict):
    """Which of these?"""

    type: Literal["choice"]
    name: str | None = None
    instructions: Content | None = None
    choices: Annotated[list[Choice], Field(min_length=2, max_length=255)]


class Level(Strict):
    """A level of a score, from the lowest to the highest."""

    label: Annotated[str, Field(min_length=1)]
    description: str | None = None


class ScoreQuestion(Strict):
    """How much, on these levels?"""

    type: Literal["score"]
    name: str | None = None
    instructions: Content | None = None
    levels: Annotated[list[Level], Field(min_length=2, max_length=10)]


class PredicateQuestion(Strict):
    """Is it so?"""

    type: Literal["predicate"]
    name: str | None = None
    instructions: Content


Question = Annotated[
    ChoiceQuestion | ScoreQuestion | PredicateQuestion, Field(discriminator="type")
]


class DecisionRequest(Strict):
    """Questions about an input. What the fields about caching name does not change an answer."""

    model: str | None = None
    input: str | list[UserMessage]
    questions: Annotated[list[Question], Field(min_length=1, max_length=400)]
    prompt_cache_key: str | None = None
    prompt_cache_options: dict[str, Any] | None = None
    safety_identifier: str | None = None
    deterministic: bool = False


def router(services: Services) -> APIRouter:
    """The route."""
    routes = APIRouter(route_class=JsonRoute, tags=["decisions"])

    @routes.post("/v1/decisions", responses=ERRORS)
    async def decide(
        request: DecisionRequest,
        x_sentilora_abstain: Annotated[Literal["refusal"] | None, Header()] = None,
    ) -> Response:
        """An answer to each question, with a probability for every option."""
        questioner = Questioner(services.registry, services.answering, request.model)
        text = _text(request.input)
        if len(request.questions) > services.answering.limits.max_texts:
            raise Refusal(413, "too many questions (`max_texts`)", param="questions")
        decisions = await together(
            ask(questioner, text, question, request.deterministic) for question in request.questions
        )
        answers = [
            _answer(question, decision, refuses=x_sentilora_abstain is not None)
            for question, decision in zip(request.questions, decisions, strict=True)
        ]
        content = {"model": questioner.model.name, "answers": answers, "usage": _usage(decisions)}
        return reply(content)

    return routes


def _text(input: str | Sequence[UserMessage]) -> str:
    if isinstance(input, str):
        return input
    return "\n\n".join(_joined(message.content) for message in input)


def _joined(content: Content) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(
        part.text if isinstance(part, TextPart) else as_text(part.data) for part in content
    )


async def ask(
    questioner: Questioner,
    text: str,
    question: ChoiceQuestion | ScoreQuestion | PredicateQuestion,
    alone: bool,
) -> Decision:
    """The decision about one question."""
    instructions = None if question.instructions is None else _joined(question.instructions)
    if isinstance(question, PredicateQuestion):
        return await questioner.affirm(text, instructions, alone=alone)
    if isinstance(question, ChoiceQuestion):
        distinct([choice.value for choice in question.choices], "choices")
        options = {_as_label(choice.value): choice.description for choice in question.choices}
        if len(options) < len(question.choices):
            raise Refusal(422, "a boolean and its name cannot be told apart", param="choices")
    else:
        distinct([level.label for level in question.levels], "levels")
        options = {level.label: level.description for level in question.levels}
    return await questioner.choose(text, instructions, options, alone=alone)


def _as_label(value: str | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else value


def _answer(
    question: ChoiceQuestion | ScoreQuestion | PredicateQuestion, decision: Decision, refuses: bool
) -> dict[str, Any]:
    name = question.name
    if decision.abstained and refuses:
        return {"type": "refusal", "name": name}
    p = decision.probabilities
    if isinstance(question, PredicateQuestion):
        return {"type": "predicate", "name": name, "probability": p[0], **decision.more}
    if isinstance(question, ChoiceQuestion):
        values = [choice.value for choice in question.choices]
        return {
            "type": "choice",
            "name": name,
            "choice": values[decision.best],
            "confidence": decision.confidence,
            "probabilities": [
                {"value": value, "probability": share}
                for value, share in zip(values, p, strict=True)
            ],
            **decision.more,
        }
    return {
        "type": "score",
        "name": name,
        "score": decision.score,
        "confidence": decision.score_confidence,
        "probabilities": [
            {"value": number, "label": level.label, "probability": share}
            for number, (level, share) in enumerate(zip(question.levels, p, strict=True))
        ],
        **decision.more,
    }


def _usage(decisions: Sequence[Decision]) -> dict[str, Any]:
    num_tokens = sum(decision.num_tokens for decision in decisions)
    return {
        "input_tokens": num_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 0,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": num_tokens,
    }
