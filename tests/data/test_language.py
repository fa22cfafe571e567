"""Whether texts are English."""

import pytest

from sentilora.data.language import is_other_language


@pytest.mark.parametrize(
    "text",
    [
        "Der Film war sehr gut, und die Schauspieler haben mir gefallen, aber er war zu lang.",
        "Le film est très bien et je le recommande à tous, mais la fin était un peu longue.",
        "Het was een mooie film met goede acteurs, maar ik vond het einde te lang.",
        "Film i en god stil, for det er med en fin historie, og vi ser den igen.",
        "La película fue muy buena y los actores son geniales, pero el final no me gusta.",
        "Фильм был очень хороший, и я рекомендую его всем.",
        "这部电影很好看。演员也很好。",
    ],
)
def test_other_languages(text):
    assert is_other_language([text] * 60)
    assert not is_other_language([text])  # too little to say


@pytest.mark.parametrize(
    "text", ["Where is the parcel that I sent?", "cancel my order", "What city has the best food ?"]
)
def test_english(text):
    assert not is_other_language([text] * 60)
