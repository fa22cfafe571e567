"""`POST /v1/systemone` in the format of TypeSafe's System One."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Response
from pydantic import Field

from sentilora.serving.errors import Refusal
from sentilora.serving.questions import Decision, Questioner, together
from sentilora.serving.routing import ERRORS, JsonRoute, Services, Strict, reply

MAX_QUESTIONS = 64
Option = Annotated[str, Field(min_length=1)]


class ChoiceQuestion(Strict):
    """Which of these? criteria: {option: what it means}."""

    type: Literal["choice"]
    instructions: str | None = None
    criteria: Annotated[dict[Option, str | None], Field(min_length=2, max_length=255)]


class ScoreQuestion(Strict):
    """How much? criteria: the levels, from the lowest to the highest."""

    type: Literal["score"]
    instructions: str | None = None
    criteria: (
        Annotated[dict[Option, str | None], Field(min_length=2, max_length=10)]
        | Annotated[list[Option], Field(min_length=2, max_length=10)]
    )


class NoulQuestion(Strict):
    """Is it so?"""

    type: Literal["noul"]
    instructions: str


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
    if isinstance(question, NoulQuestion):
        return await questioner.affirm(state, question.instructions, alone)
    criteria = question.criteria
    options = criteria if isinstance(criteria, dict) else dict.fromkeys(criteria)
    if len(options) < len(criteria):
        raise Refusal(422, "the levels must differ", param="criteria")
    return await questioner.choose(state, question.instructions, options, alone=alone)


def _answer(
    question: ChoiceQuestion | ScoreQuestion | NoulQuestion, decision: Decision
) -> dict[str, Any]:
    p = decision.probabilities
    more: dict[str, Any] = {"truncated": decision.truncated}
    if decision.abstain_below:
        more |= {"abstained": decision.abstained, "abstain_below": decision.abstain_below}
    if isinstance(question, NoulQuestion):
        return {"type": "noul", "noul": p[0], **more}
    options = list(question.criteria)
    if isinstance(question, ChoiceQuestion):
        return {
            "type": "choice",
            "choice": options[decision.best],
            "confidence": decision.confidence,
            "probabilities": dict(zip(options, p, strict=True)),
            **more,
        }
    return {
        "type": "score",
        "score": decision.score,
        "confidence": decision.score_confidence,
        "probabilities": {str(number): share for number, share in enumerate(p)},
        "legend": {str(number): option for number, option in enumerate(options)},
        **more,
    }
