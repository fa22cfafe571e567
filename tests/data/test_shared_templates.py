"""Rows filled into templates are found; what people wrote is not taken for such rows."""

import json
import random

from sentilora.data.shared_templates import look_for_templates
from sentilora.shipped import reviews_path

TEMPLATES = [
    "Where is my order {number}?",
    "My {thing} arrived broken, please send a new one to {city}.",
    "I was charged twice for invoice {number}, refund me.",
    "Hello, this is {name}. I cannot log in to my account from {city}.",
    "The {thing} stopped working after {number} days",
]
FILLINGS = {
    "thing": ["laptop", "phone", "lamp", "chair", "desk", "kettle", "camera"],
    "city": ["Boston", "Paris", "Rome", "Oslo", "Lima", "Cairo"],
    "name": ["Anna", "Ben", "Carla", "David", "Emma", "Felix"],
}
WRITTEN = [  # by hand, about one subject
    "Where has my parcel got to?", "It says delivered but nobody was here.",
    "I'd like my money back for the second charge.", "Your invoice lists an item I never bought.",
    "How do I change the card on file?", "The app logs me out every five minutes.",
    "Password reset mails never reach me.", "Two-step login asks for a phone I no longer own.",
    "Screen cracked in the box.", "The charger gets too hot to touch.",
    "Is there a discount for schools?", "Can you ship to an island?",
    "My refund was promised last week.", "Please stop the newsletter.",
    "The courier left it in the rain.", "Why is tax added twice?",
    "I forgot which address I signed up with.", "One of the four legs is shorter.",
    "When will the blue one be back?", "Do you sell gift cards?",
]  # fmt: skip


def filled(num_rows, seed, templates=TEMPLATES):
    draw = random.Random(seed)
    return [
        draw.choice(templates).format(
            number=draw.randint(1, 99_999), **{k: draw.choice(v) for k, v in FILLINGS.items()}
        )
        for _ in range(num_rows)
    ]


def test_rows_filled_into_templates_are_found():
    """240 such messages gave 100 % to whatever remembers words."""
    templates = look_for_templates(filled(200, 1), evaluation := filled(40, 2))
    assert templates.num_looked_at == 40 and templates.num_alike >= 36 and templates.is_suspicious
    i, j = templates.pair
    assert evaluation[i] != filled(200, 1)[j] and evaluation[i].split()[0] in filled(200, 1)[j]


def test_rows_of_other_templates_are_no_twins():
    templates = look_for_templates(filled(200, 1, TEMPLATES[:3]), filled(40, 2, TEMPLATES[3:]))
    assert templates.num_alike == 0 and templates.pair is None and not templates.is_suspicious


def test_what_people_wrote_is_not_suspicious():
    def reviews(split):
        lines = reviews_path(split).read_text(encoding="utf-8").splitlines()
        return [json.loads(line)["text"] for line in lines]

    templates = look_for_templates(reviews("train"), reviews("test"))
    assert templates.num_looked_at >= 50 and templates.num_alike == 0
    assert not look_for_templates(WRITTEN[::2], WRITTEN[1::2]).is_suspicious


def test_short_texts_and_texts_without_words_are_no_twins():
    assert not look_for_templates(["a b", "!", ""], ["a b", "!"]).is_suspicious
    assert not look_for_templates(["!", "?"], ["good film here"]).is_suspicious
    assert not look_for_templates(["good film here"], []).is_suspicious


def test_every_column_of_a_record_counts():
    one = {"text": "Where is my order 12?", "subject": "parcels sent in May by the north depot"}
    other = {**one, "subject": "something entirely else about invoices that were unpaid"}
    assert look_for_templates([one], [{**one, "text": "Where is my order 7?"}]).is_suspicious
    assert not look_for_templates([one], [other]).is_suspicious
