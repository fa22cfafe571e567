"""`POST /v1/systemone` in the format of TypeSafe's System One."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Response
from pydantic import Field

from sentilora.serving.errors import Refusal
from sentilora.serving.questions import (
    Decision,
    Questioner,
    as_text,
    text_or_none,
    together,
)
from sentilora.serving.routing import ERRORS, JsonRoute, Services, Strict, reply

MAX_QUESTIONS = 64
Option = Annotated[str, Field(min_length=1)]
Content = str | dict[str, Any] | list[Any]  # what is no text is read as JSON text


class ChoiceQuestion(Strict):
    """Which of these? criteria: {option: what it means}."""

    type: Literal["choice"]
    instructions: Content | None = None
    criteria: Annotated[dict[Option, Content | None], Field(min_length=2, max_length=255)]


class ScoreQuestion(Strict):
    """How much? criteria: the levels, from the lowest to the highest."""

    type: Literal["score"]
    instructions: Content | None = None
    criteria: (
        Annotated[dict[Option, Content | None], Field(min_length=2, max_length=10)]
        | Annotated[list[Option | dict[str, Any] | list[Any]], Field(min_length=2, max_length=10)]
    )


class NoulCriteria(Strict):
    """What counts as yes, and as no."""

    true: Content | None = None
    false: Content | None = None


class NoulQuestion(Strict):
    """Is it so?"""

    type: Literal["noul"]
    instructions: Content | None = None
    criteria: NoulCriteria | None = None


Question = Annotated[ChoiceQuestion | ScoreQuestion | NoulQuestion, Field(discriminator="type")]


class SystemOneRequest(Strict):
    """Questions about a state: a text, or an object where the prompt shows several columns."""

    model: str | None = None
    state: str | dict[str, Any] | list[Any]
    questions: Annotated[dict[str, Question], Field(min_length=1, max_length=MAX_QUESTIONS)]
    deterministic: bool = False


def router(services: Services) -> APIRouter:
    """The route."""
    routes = APIRouter(route_class=JsonRoute, tags=["decisions"])

    @routes.post("/v1/systemone", responses=ERRORS)
    async def decide(request: SystemOneRequest) -> Response:
        """An answer to each question, with a probability for every option."""
        questioner = Questioner(services.registry, services.answering, request.model)
        state = request.state
        decisions = await together(
            _ask(questioner, state, question, request.deterministic)
            for question in request.questions.values()
        )
        pairs = zip(request.questions.items(), decisions, strict=True)
        content = {
            "model": questioner.model.name,
            "answers": {name: _answer(question, decision) for (name, question), decision in pairs},
            "usage": {"input_tokens": sum(d.num_tokens for d in decisions), "output_tokens": 0},
        }
        return reply(content)

    return routes


async def _ask(
    questioner: Questioner,
    state: object,
    question: ChoiceQuestion | ScoreQuestion | NoulQuestion,
    alone: bool,
) -> Decision:
    instructions = text_or_none(question.instructions)
    if isinstance(question, NoulQuestion):
        outcomes = question.criteria or NoulCriteria()
        yes, no = text_or_none(outcomes.true), text_or_none(outcomes.false)
        if not (instructions or yes or no):
            raise Refusal(422, "there is no question", param="instructions")
        return await questioner.affirm(state, instructions, yes, no, alone=alone)
    options = _options(question)
    if len(options) < len(question.criteria):
        raise Refusal(422, "the levels must differ", param="criteria")
    return await questioner.choose(state, instructions, options, alone=alone)


def _options(question: ChoiceQuestion | ScoreQuestion) -> dict[str, str | None]:
    """The options with their descriptions; a level may be nothing but a description."""
    criteria = question.criteria
    if isinstance(criteria, dict):
        return {option: text_or_none(content) for option, content in criteria.items()}
    return dict.fromkeys(map(as_text, criteria))


def _answer(
    question: ChoiceQuestion | ScoreQuestion | NoulQuestion, decision: Decision
) -> dict[str, Any]:
    p = decision.probabilities
    if isinstance(question, NoulQuestion):
        return {"type": "noul", "noul": p[0], **decision.more}
    options = list(_options(question))
    if isinstance(question, ChoiceQuestion):
        return {
            "type": "choice",
            "choice": options[decision.best],
            "confidence": decision.confidence,
            "probabilities": dict(zip(options, p, strict=True)),
            **decision.more,
        }
    return {
        "type": "score",
        "score": decision.score,
        "confidence": decision.score_confidence,
        "probabilities": {str(number): share for number, share in enumerate(p)},
        "legend": {str(number): option for number, option in enumerate(options)},
        **decision.more,
    }
